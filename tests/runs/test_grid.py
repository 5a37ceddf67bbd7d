import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.conftest import problem_of

import efface
from efface.data.base import Dataset
from efface.debiased import Debiased
from efface.evaluation.evaluate import Evaluation
from efface.methods.base import Method, NotApplicable
from efface.problem import Problem
from efface.record import Record
from efface.representations import Representation
from efface.runs import base
from efface.runs.base import FingerprintError
from efface.runs.grid import GridRun, computes_the_same
from efface.runs.tracking import NoTracker

Build = Callable[..., GridRun]
QUIET = {"say": lambda message: None}


@pytest.fixture(scope="module")
def finished(parts_of: Build) -> tuple[GridRun, Record]:
    parts = parts_of("method=leace", "method.refit_head=true")
    return parts, base.execute(parts, **QUIET)


def without_run(record: Record) -> dict[str, Any]:
    return record.model_dump(exclude={"run"})


def test_a_finished_run_leaves_record_and_artefacts(finished: tuple[GridRun, Record]) -> None:
    parts, record = finished
    assert record.status == "done"
    assert Record.read(parts.directory / "record.json") == record
    assert not (parts.directory / "error.json").exists()
    for name in record.artifacts:
        assert (parts.directory / name).is_file()
    assert set(record.run["seconds"]) == {"data", "training", "features", "method", "evaluation"}
    assert 1e8 < record.run["peak_memory_bytes"] < 1e10
    assert record.info["training"]["history"][-1]["accuracy"] > 0.9
    for metrics in (record.metrics, record.val_metrics):
        assert len(metrics["group_accuracy"]) == 100
        assert metrics["max_abs_cov"] < 1e-4
    assert record.metrics["probe_information"] < 0.1


def test_predictions_of_test_make_the_metrics(finished: tuple[GridRun, Record], mini: Any) -> None:
    parts, record = finished
    table = pd.read_parquet(parts.directory / "predictions.parquet")
    assert list(table) == ["index", "y", "a", "y_pred", "p_y", "p_y_cf"]
    assert set(table["index"]) == set(mini.test.index.tolist())
    assert (table["y"] == table["y_pred"]).mean() == pytest.approx(record.metrics["accuracy"])
    assert (table["p_y"] - table["p_y_cf"]).abs().mean() == pytest.approx(record.metrics["counterfactual_bias"])


def test_load_rebuilds_the_debiased_model(finished: tuple[GridRun, Record], ten_classes: Problem) -> None:
    parts, record = finished
    debiased = efface.load(parts.directory)
    accuracy = (debiased(ten_classes.val.x).argmax(1) == ten_classes.val.y).double().mean()
    assert float(accuracy) == pytest.approx(record.val_metrics["accuracy"])


def test_load_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        efface.load(tmp_path)
    record = Record(id="0" * 8, config={}, seed=0, fingerprint="f", status="not_applicable", reason="too odd")
    (tmp_path / "record.json").write_text(record.to_json())
    with pytest.raises(ValueError, match=r"its run is not_applicable \(too odd\)"):
        efface.load(tmp_path)


class Forbidden:
    """A method that must not be reached."""

    uses_attribute_at_test = False

    def skip(self, problem: Problem) -> None:
        raise AssertionError("the method ran")


def test_a_finished_run_is_returned_at_once(finished: tuple[GridRun, Record]) -> None:
    parts, record = finished
    assert base.status(parts) == "done"
    said: list[str] = []
    assert base.execute(replace(parts, method=Forbidden()), say=said.append) == record  # type: ignore[arg-type]
    assert "finished already" in said[0]


class Late(Method):
    """A method that learns only while fitting that it cannot run."""

    def fit(self, problem: Problem) -> Debiased:
        raise NotApplicable("nothing to unlearn")


def test_reason_found_while_fitting_is_recorded(finished: tuple[GridRun, Record], tmp_path: Path) -> None:
    record = base.execute(replace(finished[0], method=Late(), results_dir=tmp_path), **QUIET)
    assert (record.status, record.reason) == ("not_applicable", "nothing to unlearn")


def test_a_repeated_run_has_the_same_record(finished: tuple[GridRun, Record]) -> None:
    parts, record = finished
    again = base.execute(replace(parts, overwrite=True), **QUIET)
    assert without_run(again) == without_run(record)
    assert again.run["cache_hit"] == {"model": True, "features": True}
    assert again.run["seconds"]["training"] == record.run["seconds"]["training"]


def test_a_run_without_the_cache_has_the_same_record(finished: tuple[GridRun, Record], tmp_path: Path) -> None:
    parts, record = finished
    elsewhere = replace(parts, cache_dir=tmp_path / "cache", results_dir=tmp_path / "results")
    again = base.execute(elsewhere, **QUIET)
    assert without_run(again) == without_run(record)
    assert again.run["cache_hit"] == {"model": False, "features": False}


def test_every_null_metric_has_a_reason(finished: tuple[GridRun, Record]) -> None:
    record = finished[1]
    for metrics, reasons in ((record.metrics, "reasons"), (record.val_metrics, "val_reasons")):
        assert record.info[reasons].keys() == {name for name, value in metrics.items() if value is None}


def test_a_model_that_diverges_in_its_last_step_is_an_error(parts_of: Build, tmp_path: Path) -> None:
    """Its loss was finite when it was last computed, before the step. Covers faults A8."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    arrays = {"x": torch.randn(200, 3, generator=g).numpy(), "y": labels.numpy(), "a": labels.roll(50).numpy()}
    np.savez(tmp_path / "my.npz", **arrays)
    options = [
        "dataset=features",
        f"path={tmp_path / 'my.npz'}",
        "model=mlp",
        "training.optimizer=sgd",
        "training.lr=1e38",
    ]
    cheap = ["training.epochs=1", "evaluation.probe=false", "evaluation.mlp_probe=false", "evaluation.bootstrap=0"]
    parts = parts_of(*options, *cheap)
    with pytest.raises(FloatingPointError, match=r"training diverged: .*lower training\.lr"):
        base.execute(parts, **QUIET)
    assert not (parts.directory / "record.json").exists()


def test_methods_share_the_base_model(parts_of: Build, finished: tuple[GridRun, Record], tmp_path: Path) -> None:
    record = base.execute(replace(parts_of("method=none"), results_dir=tmp_path), **QUIET)
    assert record.run["cache_hit"] == {"model": True, "features": True}
    assert record.metrics["probe_information"] > 2
    assert finished[1].metrics["unbiased_accuracy"] > record.metrics["unbiased_accuracy"] + 0.1


def test_seeds_differ(parts_of: Build, finished: tuple[GridRun, Record]) -> None:
    other = base.execute(parts_of("method=leace", "method.refit_head=true", "seed=1"), **QUIET)
    assert other.id == finished[1].id
    assert other.metrics["accuracy"] != finished[1].metrics["accuracy"]


def test_other_data_are_an_error_unless_overwritten(finished: tuple[GridRun, Record], tmp_path: Path) -> None:
    parts, record = finished
    parts = replace(parts, results_dir=tmp_path)
    parts.directory.mkdir(parents=True)
    (parts.directory / "record.json").write_text(record.model_copy(update={"fingerprint": "old"}).to_json())
    assert base.status(parts) == "another fingerprint"
    with pytest.raises(FingerprintError, match="overwrite=true replaces it"):
        base.execute(parts, **QUIET)
    assert base.execute(replace(parts, overwrite=True), **QUIET).fingerprint == record.fingerprint


def test_cached_models_of_data_that_the_code_made_otherwise_are_not_used(
    finished: tuple[GridRun, Record], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts = replace(finished[0], results_dir=tmp_path)
    palette = tuple(reversed(efface.data.colored_mnist._LFF))  # type: ignore[attr-defined]
    monkeypatch.setattr("efface.data.colored_mnist._LFF", palette)
    assert base.execute(parts, **QUIET).run["cache_hit"] == {"model": False, "features": False}


@pytest.mark.parametrize("change", ["training.epochs=7", "model.hidden=[20]", "seed=5"])
def test_cache_key_holds_all_that_makes_the_model(parts_of: Build, finished: Any, change: str) -> None:
    cheap = ["evaluation.probe=false", "evaluation.mlp_probe=false"]
    assert base.execute(parts_of(change, *cheap), **QUIET).run["cache_hit"]["model"] is False


def test_the_seed_draws_the_initial_weights(parts_of: Build, tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    arrays = {"x": torch.randn(200, 3, generator=g).numpy(), "y": labels.numpy(), "a": labels.roll(50).numpy()}
    np.savez(tmp_path / "my.npz", **arrays)
    own = ["dataset=features", f"path={tmp_path / 'my.npz'}", "training.epochs=0"]
    heads = [problem_of(parts_of(*own, f"seed={seed}")).head for seed in (0, 1)]
    assert not torch.allclose(heads[0].weight, heads[1].weight)


def test_evaluation_refers_to_train(parts_of: Build, ten_classes: Problem, tmp_path: Path) -> None:
    seen = []

    class Spy(Evaluation):
        def __call__(self, debiased: Any, features: Any, counterfactual: Any, reference: Any) -> Any:
            seen.append((len(features), reference))
            return super().__call__(debiased, features, counterfactual, reference)

    spy = Spy(probe=False, mlp_probe=False)
    base.execute(replace(parts_of(), evaluation=spy, results_dir=tmp_path), **QUIET)
    assert [n for n, _ in seen] == [500, 1000]
    for _, reference in seen:
        torch.testing.assert_close(reference.standardise.mean, ten_classes.train.x.mean(0))
        assert torch.equal(reference.aligned, torch.eye(10).bool())


def test_clusters_reach_evaluation_and_reasons_the_record(parts_of: Build, mini: Dataset, tmp_path: Path) -> None:
    seen = []

    class Source:
        def fingerprint(self, data_dir: Path) -> str:
            return mini.fingerprint

        def load(self, **options: Any) -> Dataset:
            return replace(mini, test=replace(mini.test, cluster=mini.test.index // 2))  # type: ignore[type-var]

    class Spy(Evaluation):
        def __call__(self, debiased: Any, features: Any, counterfactual: Any, reference: Any) -> Any:
            seen.append(features.cluster)
            return super().__call__(debiased, features, counterfactual, reference)

    spy = Spy(probe=False, mlp_probe=False, bootstrap=50)
    record = base.execute(replace(parts_of(), dataset=Source(), evaluation=spy, results_dir=tmp_path), **QUIET)
    assert seen[0] is None
    assert torch.equal(seen[1], mini.test.index // 2)
    low, high = record.metrics_ci["accuracy"]
    assert low <= record.metrics["accuracy"] <= high
    assert record.info["reasons"]["theil_index"] == "defined for a binary label and a binary attribute"
    assert record.info["d"] == 100


class Tracker(NoTracker):
    def __init__(self, broken: bool = False) -> None:
        self.events: list[str] = []
        self.broken = broken

    def start(self, **facts: Any) -> None:
        self.events.append("start")

    def finish(self, record: Record | None) -> None:
        self.events.append("finished" if record else "failed")
        if self.broken:
            raise OSError("the logger is gone")


class Broken:
    uses_attribute_at_test = False

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def skip(self, problem: Problem) -> None:
        return None

    def fit(self, problem: Problem) -> Debiased:
        raise self.error


def test_an_error_is_kept_and_goes_on(parts_of: Build, tmp_path: Path) -> None:
    tracker = Tracker()
    parts = replace(parts_of(), results_dir=tmp_path, method=Broken(RuntimeError("singular")), tracker=tracker)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="singular"):
        base.execute(parts, **QUIET)
    error = Record.read(parts.directory / "error.json")
    assert error.status == "failed"
    assert error.reason == "RuntimeError: singular"
    assert "Traceback" in error.run["traceback"]
    assert not (parts.directory / "record.json").exists()
    assert tracker.events == ["start", "failed"]
    # Put right, it runs, and the error is gone.
    base.execute(replace(parts_of(), results_dir=tmp_path), **QUIET)
    assert not (parts.directory / "error.json").exists()


def test_a_broken_logger_loses_neither_record_nor_error(parts_of: Build, tmp_path: Path) -> None:
    parts = replace(parts_of(), results_dir=tmp_path, tracker=Tracker(broken=True))
    with pytest.raises(RuntimeError, match="singular"):
        base.execute(replace(parts, method=Broken(RuntimeError("singular"))), **QUIET)  # type: ignore[arg-type]
    assert (parts.directory / "error.json").is_file()
    with pytest.warns(UserWarning, match="its logger is not: the logger is gone"):
        assert base.execute(parts, **QUIET).status == "done"
    assert base.status(parts) == "done"


def test_an_interrupt_leaves_no_record(parts_of: Build, tmp_path: Path) -> None:
    tracker = Tracker()
    parts = replace(parts_of(), results_dir=tmp_path, method=Broken(KeyboardInterrupt()), tracker=tracker)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        base.execute(parts, **QUIET)
    assert not list(parts.directory.glob("*.json"))
    assert tracker.events == ["start", "failed"]


def test_a_method_that_does_not_apply_says_why(parts_of: Build, tmp_path: Path) -> None:
    parts = parts_of("method=leace", "dataset.bias_ratio=1.0", "method.fit_on=train", "method.reweigh=true")
    record = base.execute(replace(parts, results_dir=tmp_path), **QUIET)
    assert record.status == "not_applicable"
    assert record.reason is not None
    assert "no samples with y=0,a=1" in record.reason
    assert record.metrics == {}
    assert base.status(replace(parts, results_dir=tmp_path)) == "done"


def test_a_place_that_cannot_be_written_is_named(parts_of: Build, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="set results_dir="):
        base.execute(replace(parts_of(), results_dir=tmp_path / "file"), **QUIET)


def test_a_damaged_record_is_named(finished: tuple[GridRun, Record], tmp_path: Path) -> None:
    parts = replace(finished[0], results_dir=tmp_path)
    parts.directory.mkdir(parents=True)
    (parts.directory / "record.json").write_text(json.dumps({"id": "x"}))
    with pytest.raises(ValueError, match="run its job again with overwrite=true"):
        base.execute(parts, **QUIET)
    assert base.execute(replace(parts, overwrite=True), **QUIET).status == "done"


def test_features_of_a_user(parts_of: Build, tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randint(2, (2000,), generator=g)
    y = torch.randint(2, (2000,), generator=g)
    x = torch.randn(2000, 8, generator=g)
    x[:, 0] += 3 * y
    x[:, 1] += 3 * a
    np.savez(tmp_path / "my.npz", x=x.numpy(), y=y.numpy(), a=a.numpy())
    records = {
        method: base.execute(parts_of("dataset=features", f"path={tmp_path / 'my.npz'}", f"method={method}"), **QUIET)
        for method in ("none", "leace")
    }
    assert records["none"].config["model"]["name"] == "linear"
    assert records["leace"].config["method"]["fit_on"] == "train"
    assert records["none"].metrics["probe_information"] > 0.5
    assert abs(records["leace"].metrics["probe_information"]) < 0.02
    assert records["leace"].metrics["accuracy"] > 0.85
    assert records["leace"].metrics["counterfactual_bias"] is None


@pytest.mark.parametrize(
    ("overrides", "head"),
    [
        (["method=none"], "kept"),
        (["method=leace"], "kept"),
        (["method=leace", "method.refit_head=true"], "fitted"),
        (["method=dfr"], "fitted"),
        (["method=fmd"], "fitted"),
    ],
)
def test_head_is_recorded_as_kept_or_fitted(parts_of: Build, overrides: list[str], head: str) -> None:
    cheap = ["evaluation.probe=false", "evaluation.mlp_probe=false", "evaluation.bootstrap=0"]
    assert base.execute(parts_of(*cheap, *overrides), **QUIET).info["head"] == head


class Undecided(Method):
    """A method that fits a head, and ends where it began."""

    def fit(self, problem: Problem) -> Debiased:
        head = torch.nn.Linear(problem.train.x.shape[1], problem.n_classes, dtype=torch.float64)
        head.load_state_dict(problem.head.state_dict())
        return Debiased(represent=Representation(), head=head.to(torch.float32))


def test_a_head_that_was_not_moved_is_recorded_as_kept(finished: tuple[GridRun, Record], tmp_path: Path) -> None:
    record = base.execute(replace(finished[0], method=Undecided(), results_dir=tmp_path), **QUIET)
    assert record.info["head"] == "kept"


def test_heads_are_told_apart_by_weights_biases_and_shapes() -> None:
    torch.manual_seed(0)
    layer, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert computes_the_same(layer, layer)
    assert not computes_the_same(layer, other)
    other.load_state_dict({"weight": layer.weight, "bias": layer.bias + 1e-3})
    assert not computes_the_same(layer, other)
    without = torch.nn.Linear(3, 2, bias=False)
    without.load_state_dict({"weight": layer.weight})
    assert not computes_the_same(layer, without)
    assert not computes_the_same(without, layer)
    assert not computes_the_same(layer, torch.nn.Linear(4, 2))


def test_circumstances_are_recorded_without_a_machines_name_in_the_processor(finished: tuple[GridRun, Record]) -> None:
    run = finished[1].run
    assert run["threads"] == torch.get_num_threads()
    assert set(run["versions"]) == {"python", "efface", "torch", "numpy", "torchvision", "pillow"}
    assert torch.backends.cpu.get_cpu_capability() in run["processor"]
    assert run["host"] not in run["processor"]
