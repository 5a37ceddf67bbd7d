"""Language models whose probabilities are known: a table of bigrams, and small random networks of `transformers`."""

import importlib.util
import re
from collections.abc import Callable
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
