"""What verification notices of an export."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.passport.conftest import forge_eraser, run_of, under_right_digests
from torch import nn

from efface import tensorfiles
from efface.debiased import MODEL_FILE, Debiased
from efface.export.stored import INPUTS_FILE, KIND
from efface.passport import passport_of, write
from efface.passport.render import digests
from efface.verify.__main__ import main


class Whole(nn.Module):
    """A network of one layer and what a method made of its features."""

    def __init__(self, debiased: Debiased) -> None:
        super().__init__()
        self.layer = nn.Linear(6, debiased.head.in_features)
        self.represent, self.head = debiased.represent, debiased.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.represent(self.layer(x)))
        return logits


@pytest.fixture
def export(results: Path) -> Path:
    """A folder as an export leaves it, of a run: with a program."""
    run_dir = run_of(results)
    whole, x = Whole(Debiased.load(run_dir / MODEL_FILE)).eval(), torch.randn(8, 6)
    torch.export.save(torch.export.export(whole, (x,)), run_dir / "model.pt2")
    with torch.no_grad():
        tensors = {"input.x": x, "logits": whole(x), "features": whole.layer(x)}
    tensorfiles.write(run_dir / INPUTS_FILE, tensors, kind=KIND, facts={"inputs": ["x"], "tolerance": 1e-5})
    write(passport_of(run_dir), run_dir, digests(run_dir))
    return run_dir


def test_untouched_export_differs_in_nothing(export: Path, verified: Any) -> None:
    assert verified(export) == verified(export, "--run-programs") == (0, "")


def test_program_of_a_stranger_is_not_loaded(
    export: Path, verified: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch evaluates expressions of such a file with all of Python's functions, before anything is computed."""
    ran = tmp_path / "ran"

    def load(file: Path) -> None:
        ran.touch()

    monkeypatch.setattr(torch.export, "load", load)
    options = ("--data", tmp_path, "--cache", tmp_path)
    assert verified(export)[0] == 0
    assert not ran.exists()
    assert main([str(export)]) == 0
    assert "not checked  logits of model.pt2: it is a program, which --run-programs runs" in capsys.readouterr().out
    verified(export, *options)
    assert not ran.exists()
    verified(export, "--run-programs")
    assert ran.exists()


def test_forged_eraser_is_noticed_by_stored_logits(export: Path, verified: Any) -> None:
    forge_eraser(export)
    under_right_digests(export)
    write(passport_of(export), export, digests(export))
    status, said = verified(export)
    assert status == 1
    assert f"logits of {MODEL_FILE}, on 8 stored inputs: they differ by up to" in said


def test_forged_program_is_noticed_by_stored_logits(export: Path, verified: Any) -> None:
    debiased = Debiased.load(export / MODEL_FILE)
    other = replace(debiased, head=nn.Linear(debiased.head.in_features, debiased.head.out_features))
    torch.export.save(torch.export.export(Whole(other).eval(), (torch.randn(8, 6),)), export / "model.pt2")
    assert "model.pt2 has changed" in verified(export)[1]
    write(passport_of(export), export, digests(export))
    status, said = verified(export, "--run-programs")
    assert status == 1
    assert "logits of model.pt2" in said


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_predictions_that_cannot_be_read_differ(results: Path, verified: Any, content: bytes | None) -> None:
    run_dir = run_of(results)
    if content is None:
        pd.DataFrame({"y": [0]}).to_parquet(run_dir / "predictions.parquet")
    else:
        (run_dir / "predictions.parquet").write_bytes(content)
    status, said = verified(run_dir)
    assert status == 1
    assert "predictions.parquet has changed" in said
    assert "predictions.parquet cannot be read" in said


def test_model_of_transformers_is_run_on_stored_inputs(export: Path, verified: Any) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=20, **shape)).eval()
    ids = torch.arange(12).view(2, 6)
    (export / "model.pt2").unlink()
    with torch.no_grad():
        tensors = {"input.input_ids": ids, "logits": model(input_ids=ids).logits}
    facts = {"inputs": ["input_ids"], "tolerance": 1e-5}
    tensorfiles.write(export / INPUTS_FILE, tensors, kind=KIND, facts=facts)
    model.save_pretrained(export)
    write(passport_of(export), export, digests(export))
    assert verified(export)[0] == 0
    model.classifier.weight.data += 1
    model.save_pretrained(export)
    write(passport_of(export), export, digests(export))
    assert "logits of config.json, on 2 stored inputs: they differ by up to" in verified(export)[1]


def test_exported_weights_are_run_on_the_data(results: Path, cache: Path, tmp_path: Path, verified: Any) -> None:
    """Of the base model, whose network needs no folding."""
    run_dir = run_of(results, "none")
    (entry,) = [file for file in cache.rglob("*.safetensors") if _is_base_model(file, run_dir)]
    tensors = {name: t for name, t in load_file(entry).items() if name.startswith(("backbone.", "head."))}
    save_file(tensors, run_dir / "model.safetensors")
    options = ("--data", tmp_path, "--cache", cache)
    assert verified(run_dir, *options) == (0, "")
    tensors["head.bias"] += torch.arange(10.0)
    save_file(tensors, run_dir / "model.safetensors")
    assert "predictions of model.safetensors on test: probabilities" in verified(run_dir, *options)[1]


def _is_base_model(file: Path, run_dir: Path) -> bool:
    """Whether an entry of the cache holds the network whose head the run has kept."""
    tensors, head = load_file(file), Debiased.load(run_dir / MODEL_FILE).head
    return "head.weight" in tensors and torch.equal(tensors["head.weight"], head.weight)


def test_damaged_inputs_and_programs_are_named(export: Path, verified: Any) -> None:
    (export / "model.pt2").write_bytes(b"PK")
    assert "logits of model.pt2, on 8 stored inputs: it cannot be run" in verified(export, "--run-programs")[1]
    (export / INPUTS_FILE).write_bytes(b"\0" * 20)
    assert "is not a saved stored inputs" in verified(export)[1]
