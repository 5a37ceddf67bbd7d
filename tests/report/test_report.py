import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from efface import experiment
from efface.record import Record
from efface.report import figure, table
from efface.report.__main__ import main
from efface.report.records import collect


@pytest.fixture(scope="module")
def results(parts_of: Callable[..., experiment.Experiment], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real runs: two methods, one of them under two options, and one job that does not apply."""
    root = tmp_path_factory.mktemp("results")
    cheap = ["evaluation.mlp_probe=false"]
    for overrides in (
        ["method=none", "seed=0"],
        ["method=none", "seed=1"],
        ["method=leace", "seed=0"],
        ["method=leace", "method.refit_head=true", "seed=0"],
        ["method=leace", "method.fit_on=train", "method.reweigh=true", "dataset.bias_ratio=1.0", "seed=0"],
    ):
        parts = parts_of(*cheap, *overrides)
        object.__setattr__(parts, "results_dir", root)
        experiment.run(parts, say=lambda message: None)
    return root


@pytest.fixture
def copy(results: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(results, tmp_path / "results"))


def test_runs_are_tidy_and_labelled_by_what_differs(results: Path) -> None:
    runs, problems = collect(results)
    assert problems == []
    assert len(runs) == 5
    assert set(runs["dataset"]) == {"colored_mnist_mini bias_ratio=0.95", "colored_mnist_mini bias_ratio=1"}
    common = runs[runs["dataset"].str.endswith("0.95")]
    assert set(common["method"]) == {"none", "leace refit_head=false", "leace refit_head=true"}
    one = runs[runs["method"] == "none"].iloc[0]
    record = Record.read(results / one["path"] / "record.json")
    assert one["unbiased_accuracy"] == record.metrics["unbiased_accuracy"]
    assert one["val_accuracy"] == record.val_metrics["accuracy"]


def test_the_table_is_of_the_runs(results: Path) -> None:
    runs, _ = collect(results)
    made = table.build(runs)
    none = runs[runs["method"] == "none"]["unbiased_accuracy"]
    cell = made.cells.loc[("colored_mnist_mini bias_ratio=0.95", "none"), table.COLUMNS["unbiased_accuracy"]]
    assert cell == f"{none.mean():.3f} ± {none.std():.3f}"
    assert made.cells.loc[("colored_mnist_mini bias_ratio=0.95", "none"), "n"] == "2"
    # One run has no spread; what does not apply has neither, and says why.
    assert "±" not in made.cells.loc[("colored_mnist_mini bias_ratio=0.95", "leace refit_head=true")].iloc[0]
    assert made.cells.loc[("colored_mnist_mini bias_ratio=1", "leace"), "n"] == "0 of 1"
    assert any("not applicable: reweigh=true: no weights" in note for note in made.notes)
    assert any("non-linear probe is switched off" in note for note in made.notes)
    assert len(made.notes) == 2  # a row without runs is no gap of a metric
    for word in ("test split", "Groups are", "Probe information", "last epoch"):
        assert word in made.caption


def test_everything_is_written_and_repeats_byte_by_byte(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(copy), "--out", str(tmp_path / "one")]) == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "one") in printed
    assert "| none" in printed
    assert main([str(copy), "--out", str(tmp_path / "two")]) == 0
    names = {path.name for path in (tmp_path / "one").iterdir()}
    figures = {"accuracy_against_bias.png", "accuracy_against_bias.svg"}
    assert names == {"runs.csv", "table.md", "table.csv", "table.tex", *figures}
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert len(pd.read_csv(tmp_path / "one" / "runs.csv")) == 5
    latex = (tmp_path / "one" / "table.tex").read_text()
    assert r"\toprule" in latex
    assert r"colored\_mnist\_mini" in latex
    assert not any(sign in latex for sign in "±↑↓–×−")


def test_a_failed_run_is_shown_until_it_is_finished(copy: Path) -> None:
    record_path = next(path for path in copy.rglob("record.json") if "/none/" in str(path) and "seed=1" in str(path))
    record = Record.read(record_path)
    error = record.model_copy(update={"status": "failed", "reason": "ValueError: no", "metrics": {}})
    (record_path.parent / "error.json").write_text(error.to_json())
    assert len(collect(copy)[0]) == 5
    record_path.unlink()
    runs, _ = collect(copy)
    made = table.build(runs)
    assert made.cells.loc[("colored_mnist_mini bias_ratio=0.95", "none"), "n"] == "1 of 2"
    assert any("seed 1: failed: ValueError: no" in note for note in made.notes)


def test_a_damaged_record_is_left_out_and_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next(copy.rglob("record.json")).write_text("{")
    assert main([str(copy)]) == 1
    captured = capsys.readouterr()
    assert "left out" in captured.err
    assert "record.json is damaged" in captured.err


def test_an_empty_folder_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "python run.py method=leace" in capsys.readouterr().err


def test_ranks_are_drawn_where_there_are_several(copy: Path, tmp_path: Path) -> None:
    runs, _ = collect(copy)
    assert set(runs.loc[runs["method_name"] == "leace", "rank"].dropna()) == {9}
    assert figure.probe_against_rank(runs, tmp_path) == []
    runs.loc[runs["method"] == "leace refit_head=true", "rank"] = 4
    paths = figure.probe_against_rank(runs, tmp_path)
    assert [path.name for path in paths] == ["probe_against_rank.png", "probe_against_rank.svg"]
    drawn = paths[1].read_text()
    for word in ("directions removed", "probe information, bits", "majority", "base model"):
        assert f"<!-- {word} -->" in drawn
