"""What verification notices: every test changes one thing in a run or an export, and looks for its name."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import executed
from tests.passport.conftest import record_of
from torch import nn

from efface import tensorfiles
from efface.debiased import MODEL_FILE, Debiased
from efface.export.stored import INPUTS_FILE, KIND
from efface.files import file_digest
from efface.passport import passport_of, write
from efface.passport.render import digests
from efface.runs import grid
from efface.verify.__main__ import main


def run_of(results: Path, method: str = "leace") -> Path:
    return record_of(results, method).parent


def edit(run_dir: Path, change: Callable[[dict[str, Any]], object], file: str = "record.json") -> None:
    path = run_dir / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=1))


def under_right_digests(run_dir: Path) -> None:
    """Let record and passport name the files that are there, as a forger would."""
    edit(run_dir, lambda r: r["artifacts"].update({name: file_digest(run_dir / name) for name in r["artifacts"]}))
    write(passport_of(run_dir), run_dir)


def forge_eraser(run_dir: Path) -> None:
    """Let the eraser erase half of what it did, in a file with a right checksum of its own."""
    path = run_dir / MODEL_FILE
    tensors, facts = tensorfiles.read(path, kind="debiased model")
    tensors["represent.proj_left"] *= 0.5
    tensorfiles.write(path, tensors, kind="debiased model", facts=facts)


@pytest.fixture
def verified(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Verify, and return the exit status and what differs."""

    def verify(folder: Path, *options: str | Path) -> tuple[int, str]:
        status = main([str(folder), *map(str, options)])
        said = capsys.readouterr()
        return status, "\n".join([line for line in said.out.splitlines() if line.startswith("DIFFERS")] + [said.err])

    return verify


@pytest.fixture
def cache(parts_of: Callable[..., grid.GridRun]) -> Path:
    return parts_of().cache_dir


@pytest.mark.parametrize("method", ["none", "leace", "fmd_published", "certified"])
def test_untouched_run_differs_in_nothing(finished: Path, method: str, verified: Any) -> None:
    assert verified(run_of(finished, method)) == (0, "")


def test_untouched_run_with_a_passport_differs_in_nothing(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    write(passport_of(run_dir), run_dir)
    assert verified(run_dir) == (0, "")


def test_one_changed_byte_of_a_weight_is_noticed(results: Path, verified: Any) -> None:
    path = run_of(results) / MODEL_FILE
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    status, said = verified(path.parent)
    assert status == 1
    assert f"{MODEL_FILE} has changed" in said
    assert "its checksum is wrong" in said


@pytest.mark.parametrize("key", ["accuracy", "unbiased_accuracy", "worst_group_accuracy", "counterfactual_bias"])
def test_edited_metric_is_noticed_without_a_passport(results: Path, key: str, verified: Any) -> None:
    run_dir = run_of(results)
    edit(run_dir, lambda r: r["metrics"].update({key: r["metrics"][key] + 0.01}))
    status, said = verified(run_dir)
    assert status == 1
    assert f"DIFFERS      metrics, computed again from the predictions: {key} is" in said


def test_edited_accuracy_of_a_group_is_noticed(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    edit(run_dir, lambda r: r["metrics"]["group_accuracy"].update({"y=0,a=1": 0.999}))
    assert "group_accuracy, y=0,a=1 is 0.999, but must be" in verified(run_dir)[1]


def test_edited_interval_is_noticed(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    edit(run_dir, lambda r: r["metrics_ci"].update({"accuracy": [0.9, 0.95]}))
    status, said = verified(run_dir)
    assert status == 1
    assert "intervals, computed again from the predictions: accuracy is [0.9, 0.95]" in said


def test_edited_probe_is_noticed_once_a_passport_has_been_written(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    write(passport_of(run_dir), run_dir)
    edit(run_dir, lambda r: r["metrics"].update({"probe_information": 0.0}))
    status, said = verified(run_dir)
    assert status == 1
    assert "record.json has changed" in said


def test_edited_probe_is_noticed_on_the_data(results: Path, cache: Path, tmp_path: Path, verified: Any) -> None:
    run_dir = run_of(results)
    edit(run_dir, lambda r: r["metrics"].update({"probe_information": -0.5}))
    assert verified(run_dir)[0] == 0
    status, said = verified(run_dir, "--data", tmp_path, "--cache", cache)
    assert status == 1
    assert "metrics, measured again on the data: probe_information is -0.5" in said


def test_edited_configuration_is_noticed(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    edit(run_dir, lambda r: r["config"]["dataset"].update({"bias_ratio": 0.5}))
    assert "the record's id" in verified(run_dir)[1]


def test_edited_predictions_are_noticed_under_a_right_digest(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    table = pd.read_parquet(run_dir / "predictions.parquet")
    table.loc[table.index[:50], "y_pred"] = table["y"].iloc[:50]
    table.to_parquet(run_dir / "predictions.parquet", index=False)
    under_right_digests(run_dir)
    status, said = verified(run_dir)
    assert status == 1
    assert "accuracy is" in said


@pytest.mark.parametrize("method", ["none", "leace", "fmd_published"])
def test_untouched_run_is_measured_again_as_it_was(
    finished: Path, method: str, cache: Path, tmp_path: Path, verified: Any
) -> None:
    options = ("--data", tmp_path, "--cache", cache, "--tolerance", "1e-5")
    assert verified(run_of(finished, method), *options) == (0, "")


def test_forged_eraser_under_right_digests_is_noticed_on_the_data(
    results: Path, cache: Path, tmp_path: Path, verified: Any
) -> None:
    run_dir = run_of(results)
    forge_eraser(run_dir)
    under_right_digests(run_dir)
    assert verified(run_dir)[0] == 0  # nothing there tells
    status, said = verified(run_dir, "--data", tmp_path, "--cache", cache)
    assert status == 1
    assert "predictions, made again on the data: probabilities of the label differ" in said
    assert "probe_information is" in said


@pytest.fixture
def feature_run(parts_of: Callable[..., grid.GridRun], tmp_path: Path) -> tuple[Path, Path]:
    """A run on a file of features, and that file."""
    g = np.random.default_rng(0)
    a, y = g.integers(0, 2, 1200), g.integers(0, 2, 1200)
    x = g.normal(size=(1200, 5)) + np.stack([a, y, a, y, a], 1)
    file = tmp_path / "my.npz"
    np.savez(file, x=x, y=y, a=a)
    cheap = ["evaluation.mlp_probe=false", "evaluation.bootstrap=0", "training.epochs=2"]
    parts = parts_of("dataset=features", f"path={file}", "method=leace", *cheap)
    return executed(parts, tmp_path / "features").directory, file


def test_another_data_file_is_noticed(
    feature_run: tuple[Path, Path], cache: Path, tmp_path: Path, verified: Any
) -> None:
    run_dir, file = feature_run
    moved = file.rename(tmp_path / "moved.npz")
    assert verified(run_dir, "--data", moved, "--cache", cache) == (0, "")
    arrays = dict(np.load(moved))
    arrays["x"][3, 1] += 1e-3
    np.savez(tmp_path / "other.npz", **arrays)
    status, said = verified(run_dir, "--data", tmp_path / "other.npz", "--cache", cache)
    assert status == 1
    assert "data, with the fingerprint of the record: these have" in said
    status, said = verified(run_dir, "--data", tmp_path / "none.npz", "--cache", cache)
    assert status == 2
    assert "none.npz" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["guarantee"].update(statement="All is well."), "guarantee says something else than the record"),
        (lambda p: p.update(not_guaranteed=[]), "not_guaranteed says something else"),
        (lambda p: p["figures"][0].update(value=0.99), "figures says something else"),
        (lambda p: p["origin"].update(commit="f" * 12), "origin says something else"),
        (lambda p: p["files"].update({"../../secret": "0" * 64}), "../../secret lies outside of the folder"),
        (lambda p: p["files"].update({"weights.bin": "0" * 64}), "weights.bin is gone"),
    ],
    ids=["guarantee", "limits", "figure", "commit", "outside", "missing"],
)
def test_edited_passport_is_noticed(results: Path, change: Any, message: str, verified: Any) -> None:
    run_dir = run_of(results)
    write(passport_of(run_dir), run_dir)
    edit(run_dir, change, "passport.json")
    status, said = verified(run_dir)
    assert status == 1
    assert message in said


def test_edited_page_is_noticed(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    write(passport_of(run_dir), run_dir)
    page = run_dir / "passport.html"
    page.write_text(page.read_text().replace("not guaranteed", "guaranteed"))
    (run_dir / "passport.md").unlink()
    status, said = verified(run_dir)
    assert status == 1
    assert "passport.html is another page than that of passport.json" in said
    assert "passport.md is gone" in said


def test_passport_of_a_newer_schema_is_named(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    write(passport_of(run_dir), run_dir)
    edit(run_dir, lambda p: p.update(schema_version=2), "passport.json")
    status, said = verified(run_dir)
    assert status == 2
    assert "schema version 2, of a later efface, but this one reads 1: install the version that wrote it" in said


def test_passport_of_another_efface_is_compared_by_its_digests_alone(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    write(passport_of(run_dir), run_dir)
    edit(run_dir, lambda p: p.update(written_by="99.0"), "passport.json")
    assert verified(run_dir) == (0, "")
    (run_dir / MODEL_FILE).write_bytes(b"")
    assert verified(run_dir)[0] == 1


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda run: (run / "record.json").unlink(), "holds no run and no export"),
        (lambda run: (run / "record.json").write_text("{"), "is damaged"),
        (lambda run: edit(run, lambda r: r.update(status="failed", reason="why")), "its run is failed (why)"),
    ],
    ids=["no record", "half a record", "failed"],
)
def test_folder_that_cannot_be_read_is_named(results: Path, break_it: Any, message: str, verified: Any) -> None:
    run_dir = run_of(results)
    break_it(run_dir)
    status, said = verified(run_dir)
    assert status == 2
    assert message in said


def test_missing_file_is_named(results: Path, verified: Any) -> None:
    run_dir = run_of(results)
    (run_dir / "predictions.parquet").unlink()
    status, said = verified(run_dir)
    assert status == 1
    assert "predictions.parquet is gone" in said


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
