"""A few hand-written sentences, and two small models trained on them."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from efface.data.conllu import TaggedText, Treebank
from efface.scrubbing.language_models import LanguageModel, LmTraining, TinyModel
from efface.scrubbing.tokens import TokenData

if importlib.util.find_spec("transformers") is None:  # pip install 'efface[scrub]'
    collect_ignore_glob = ["test_*.py"]

ARCHITECTURES = ("llama", "gpt_neox")


@pytest.fixture(scope="session")
def treebank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the sentences as a treebank, `sentences/small-{train,dev,test}.conllu`."""
    root = tmp_path_factory.mktemp("treebank")
    folder = root / "sentences"
    folder.mkdir()
    part, lines = "", dict[str, list[str]]()
    for line in (Path(__file__).parent / "sentences.txt").read_text().splitlines():
        if line.startswith("# ---"):
            part = line.split()[-1]
            lines[part] = []
        elif not line.startswith("#"):
            lines[part].append(conllu(line))
    for name, sentences in lines.items():
        # Four sentences are a document.
        marked = [("# newdoc\n" if i % 4 == 0 else "") + sentence for i, sentence in enumerate(sentences)]
        (folder / f"small-{name}.conllu").write_text("".join(marked))
    return root


def conllu(line: str) -> str:
    words = [word.rpartition("/") for word in line.split(" ")]
    rows = []
    for i, (form, _, tag) in enumerate(words):
        glued = i + 1 < len(words) and words[i + 1][0].startswith("~")
        misc = "SpaceAfter=No" if glued else "_"
        rows.append("\t".join([str(i + 1), form.removeprefix("~"), "_", tag, *"_____", misc]))
    return "\n".join(rows) + "\n\n"


@pytest.fixture(scope="session")
def text(treebank: Path) -> TaggedText:
    return Treebank(folder="sentences", prefix="small").load(treebank)


@pytest.fixture(scope="session")
def trained(text: TaggedText) -> Callable[[str], LanguageModel]:
    """A model of an architecture, trained once; do not change it."""
    made: dict[str, LanguageModel] = {}

    def get(architecture: str) -> LanguageModel:
        if architecture not in made:
            source = TinyModel(
                architecture=architecture,
                hidden_size=32,
                layers=2,
                heads=4,
                intermediate_size=64,
                vocab_size=320,
                max_length=48,
            )
            made[architecture] = source.load(
                text,
                LmTraining(epochs=12, batch_size=8, lr=1e-2),
                seed=0,
                device="cpu",
                cached=lambda build: build(),
                progress=False,
            )
        return made[architecture]

    return get


@pytest.fixture(params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest, trained: Callable[[str], LanguageModel]) -> LanguageModel:
    return trained(request.param)


@pytest.fixture
def train(lm: LanguageModel, text: TaggedText) -> TokenData:
    return lm.tokenise(text.train, text.tags)


def untouched(model: torch.nn.Module) -> bool:
    """Whether a model has no hooks and its own forward passes."""
    return not any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in model.modules()
    )
