"""A pretrained model is taken whole and as data, or not at all."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from efface.data.conllu import TaggedText
from efface.scrubbing.language_models import LanguageModel, LmTraining, NoTraining, PretrainedModel, TinyModel


@pytest.fixture(scope="module")
def whole(text: TaggedText, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its tokeniser, saved as `transformers` saves."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("whole")
    vocabulary = ""

    def cached(build: Callable[[], Any]) -> Any:
        nonlocal vocabulary
        tensors, facts = build()
        vocabulary = facts["tokenizer"]
        return tensors, facts

    source = TinyModel(architecture="llama", hidden_size=32, layers=1, heads=4, intermediate_size=64, vocab_size=320)
    lm = source.load(text, LmTraining(epochs=0), seed=0, device="cpu", cached=cached, progress=False)
    tokenizer = Tokenizer.from_str(vocabulary)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>").save_pretrained(folder)
    lm.model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def load(folder: Path, text: TaggedText, **options: Any) -> LanguageModel:
    source = PretrainedModel(path=str(folder), **options)
    return source.load(text, NoTraining(), seed=0, device="cpu", cached=lambda build: build(), progress=False)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("PWNED",)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"weight": Evil()}, file, protocol=2)


def pickled_by_torch(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Evil()}, folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def without_a_tokeniser(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()


MLP = "model.layers.0.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pickled, "cannot be loaded"),
        (pickled_by_torch, "cannot be loaded"),
        (truncated, "cannot be loaded"),
        (without_a_tokeniser, "cannot be loaded"),
        (lambda folder: change_weights(folder, lambda t: t.update({MLP: t[MLP][:3].clone()})), "cannot be loaded"),
        (lambda folder: change_weights(folder, lambda t: t.pop(MLP)), f"lacks the weights {MLP}, .* drawn at random"),
        (lambda folder: change_weights(folder, lambda t: t.pop("lm_head.weight")), "lm_head.weight, .* or head=none"),
        (lambda folder: change_weights(folder, lambda t: t[MLP][0].fill_(torch.nan)), f"infinite weights in {MLP}"),
    ],
)
def test_damaged_model_is_refused(
    folder: Path, text: TaggedText, damage: Callable[[Path], object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Covers faults C7: a pickle runs nothing, and whatever is wrong is said with the path."""
    monkeypatch.chdir(folder)
    damage(folder)
    with pytest.raises(ValueError, match=rf"^path: {folder} .*{message}"):
        load(folder, text)
    assert not (folder / "PWNED").exists()


def test_code_of_a_model_is_neither_run_nor_asked_about(
    folder: Path, text: TaggedText, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Covers faults C7."""
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail("a question"))
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "evil.py").write_text(f"open({str(folder / 'PWNED')!r}, 'w')")
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": classes, "model_type": "evil"}))
    with pytest.raises(ValueError, match=r"cannot be loaded .*custom code"):
        load(folder, text)
    assert not (folder / "PWNED").exists()


def test_a_model_without_a_head_is_taken_as_one(folder: Path, text: TaggedText) -> None:
    change_weights(folder, lambda tensors: tensors.pop("lm_head.weight"))
    lm = load(folder, text, head="none")
    assert torch.equal(dict(lm.model.named_parameters())["norm.weight"], torch.ones(32))
