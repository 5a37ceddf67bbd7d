"""Language models whose probabilities are known: a table of bigrams, and small random networks of `transformers`."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efface.scrubbing.language_models import LanguageModel

if importlib.util.find_spec("transformers") is None:  # pip install 'efface[scrub]'
    collect_ignore_glob = ["test_*.py"]

WORDS = ("<s>", "</s>", "[M]", "<pad>", "she", "he", "is", "a", "nurse", "chef", "kind", "fox", "un", "able", ".")
NUMBER = {word: i for i, word in enumerate(WORDS)}

VERBS, NOUNS = ("saw", "met", "knew", "called"), ("nurse", "chef", "pilot", "clerk")
HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations\n"


def encode(text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Words, with `unable` in two pieces; the blank before a word belongs to it."""
    ids, offsets = list[int](), list[tuple[int, int]]()
    for match in re.finditer(r" ?(\w+|\.)", text):
        pieces = ["un", "able"] if match[1] == "unable" else [match[1]]
        start = match.start()
        for piece in pieces:
            end = match.end() if piece == pieces[-1] else match.start(1) + len(piece)
            ids.append(NUMBER[piece])
            offsets.append((start, end))
            start = end
    return ids, offsets


class Bigrams(nn.Module):
    """A model of one-hot states, whose next token depends on the last one alone."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=12, hidden_size=len(table), model_type="bigrams")
        self.embedding = nn.Embedding.from_pretrained(torch.eye(len(table)))
        self.head = nn.Linear(*table.shape, bias=False)
        self.head.weight.data = table.log().mT.contiguous()

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, **ignored: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.embedding(input_ids)))


@pytest.fixture
def table() -> Tensor:
    """P(next | last), `[15, 15]`."""
    return torch.rand(len(WORDS), len(WORDS), generator=torch.Generator().manual_seed(0)).add(0.1).softmax(1)


@pytest.fixture
def bigrams(table: Tensor) -> LanguageModel:
    return LanguageModel(Bigrams(table), encode, (NUMBER["<s>"],), (), NUMBER["<pad>"], 12)


@pytest.fixture
def network() -> Callable[[str], LanguageModel]:
    """A small network of random weights: `llama` or `gpt2`, causal, or `bert`, masked."""

    def get(family: str) -> LanguageModel:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForPreTraining

        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        config = AutoConfig.for_model(family, **sizes, vocab_size=len(WORDS), max_position_embeddings=24)
        config.initializer_range = 0.5
        auto: Any = AutoModelForPreTraining if family == "bert" else AutoModelForCausalLM
        model = auto.from_config(config).eval().requires_grad_(False)
        masked = family == "bert"
        suffix = (NUMBER["</s>"],) if masked else ()
        return LanguageModel(
            model,
            encode,
            (NUMBER["<s>"],),
            suffix,
            NUMBER["<pad>"],
            24,
            head="masked" if masked else "causal",
            mask=NUMBER["[M]"],
        )

    return get


def sentences() -> list[str]:
    return [f"{who} {verb} the {noun} ." for who in ("he", "she") for verb in VERBS for noun in NOUNS]


def conllu(rows: list[str]) -> str:
    lines = ["\n".join(f"{i}\t{word}\t_\tX" + "\t_" * 6 for i, word in enumerate(row.split(), 1)) for row in rows]
    return "# newdoc\n" + "\n\n".join(lines) + "\n\n"


def stereoset(n: int) -> dict[str, list[dict[str, Any]]]:
    """Two tasks of n examples, on two terms."""

    def example(i: int, context: str, begin: str) -> dict[str, Any]:
        labels = {"stereotype": "she", "anti-stereotype": "he", "unrelated": "chef"}
        texts = [{"sentence": f"{begin}{word} .", "gold_label": label} for label, word in labels.items()]
        domain = ("gender", "race")[i % 2]
        return {"id": str(i), "target": NOUNS[i % 2], "bias_type": domain, "context": context, "sentences": texts}

    return {
        "intrasentence": [
            example(i, f"{NOUNS[i % 2]} {VERBS[i % 4]} BLANK .", f"{NOUNS[i % 2]} saw ") for i in range(n)
        ],
        "intersentence": [example(i, f"the {NOUNS[i % 4]} came .", "") for i in range(n)],
    }


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a treebank, pairs and StereoSet of a few sentences."""
    root = tmp_path_factory.mktemp("data")
    for part in ("train", "dev", "test"):
        (root / f"small-{part}.conllu").write_text(conllu(sentences()))
    (root / "words.json").write_text(json.dumps({"gender": [["he", "she"]]}))
    categories = ("gender", "gender", "age", "gender", "gender", "religion")
    rows = [f"{i},she saw {NOUNS[i % 4]},he saw {NOUNS[i % 4]},stereo,{c},[]" for i, c in enumerate(categories)]
    (root / "pairs.csv").write_text(HEADER + "\n".join(rows) + "\n")
    (root / "own.csv").write_text("sent_more,sent_less,bias_type\nshe met the clerk,he met the clerk,mine\n")
    (root / "stereoset").mkdir()
    for part, n in (("dev", 4), ("test", 8)):
        for task, examples in stereoset(n).items():
            (root / "stereoset" / f"{part}_{task}.json").write_text(json.dumps(examples))
    return root
