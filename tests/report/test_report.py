import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from tests.report.conftest import record_of

from efface.identity import run_id
from efface.metrics import METRICS
from efface.record import Record
from efface.report import plots, render, table
from efface.report.__main__ import main
from efface.report.records import collect

BIASED, WHOLLY = "colored_mnist_mini bias_ratio=0.95", "colored_mnist_mini bias_ratio=1"
HEADINGS = {metric.key: table.heading(metric) for metric in METRICS}


def test_runs_are_tidy_and_labelled_by_what_differs(results: Path) -> None:
    collection = collect(results)
    runs = collection.runs
    assert collection.problems == collection.failures == ()
    assert len(runs) == 5
    assert set(runs["dataset"]) == {BIASED, WHOLLY}
    assert set(runs["method"]) == {"none", "leace refit_head=false", "leace refit_head=true"}
    one = runs[runs["method"] == "none"].iloc[0]
    record = Record.read(results / one["path"] / "record.json")
    assert one["unbiased_accuracy"] == record.metrics["unbiased_accuracy"]
    assert one["val_accuracy"] == record.val_metrics["accuracy"]
    assert one["dataset_options"]["bias_ratio"] == 0.95
    history = collection.histories[collection.histories["path"] == one["path"]].drop(columns="path")
    assert history.to_dict("records") == record.info["training"]["history"]


def low_to_high(results: Path, path: str) -> float:
    """How wide the interval of a run's unbiased accuracy is."""
    low, high = Record.read(results / path / "record.json").metrics_ci["unbiased_accuracy"]
    return float(high - low)


def test_the_table_is_of_the_runs(results: Path) -> None:
    runs = collect(results).runs
    made = table.build(runs)
    none = runs[runs["method"] == "none"]["unbiased_accuracy"]
    cell = made.cell("none", (BIASED, HEADINGS["unbiased_accuracy"]))
    widths = [low_to_high(results, path) for path in runs.loc[runs["method"] == "none", "path"]]
    assert cell.text == f"{none.mean():.3f} ± {none.std():.3f} [±{sum(widths) / 4:.3f}]"
    assert [(run.seed, run.value) for run in cell.runs] == list(enumerate(none))
    assert all((results / run.path / "record.json").is_file() for run in cell.runs)
    assert made.cell("none", (BIASED, "n")).text == "2"
    # One run has no spread; what does not apply has neither, and says why.
    assert " ± " not in made.cell("leace refit_head=true", (BIASED, HEADINGS["unbiased_accuracy"])).text
    assert made.cell("leace refit_head=false", (WHOLLY, "n")).text == "0 of 1"
    assert any("not applicable: reweigh=true: no weights" in note for note in made.notes)
    assert any(f"{BIASED}: no MLP probe, bits: the non-linear probe is switched off" in note for note in made.notes)
    assert any("fit_on is pairs on colored_mnist_mini bias_ratio=0.95; train on" in note for note in made.notes)
    assert any("the method names no samples that an eraser was fitted on" in note for note in made.notes)
    assert not any(note.startswith(f"{WHOLLY}:") for note in made.notes)  # a cell without runs is no gap of a metric
    text = render.markdown(made)
    for word in ("test split", "groups", "probe info.", "last epoch", "Bold: the best mean"):
        assert word in text
    assert "underlined" not in text  # no test was made: there are too few seeds


def test_the_best_is_bold_by_the_direction_of_the_metric(results: Path) -> None:
    runs = collect(results).runs
    made = table.build(runs)
    for metric in METRICS:
        if metric.key not in runs:
            continue  # of other data, or a figure for each group
        column = (BIASED, HEADINGS[metric.key])
        best = {row for row in made.rows if made.cell(row, column).mark == "best"}
        means = runs[runs["dataset"] == BIASED].groupby("method")[metric.key].mean().dropna()
        if metric.direction == "" or len(means) < 2:
            assert best == set()
        else:
            side = {"higher": -means, "zero": means.abs(), "one": (means - 1).abs()}.get(metric.direction, means)
            assert best == set(side[side == side.min()].index)


def test_metrics_and_spread_can_be_chosen(results: Path) -> None:
    runs = collect(results).runs
    made = table.build(runs, metrics=["probe_information", "accuracy"], kind="interval")
    shown = [title for setting, title in made.columns if setting == BIASED]
    assert shown == ["head", HEADINGS["probe_information"], HEADINGS["accuracy"], "method, s", "memory, MB", "n"]
    values = runs.loc[runs["method"] == "none", "accuracy"]
    # With two seeds, t = 12.706 and s / √2 is half their distance.
    half = 12.7062 * (values.max() - values.min()) / 2
    assert made.cell("none", (BIASED, HEADINGS["accuracy"])).text.startswith(f"{values.mean():.3f} ± {half:.3f} [±")
    assert "95 % t interval" in made.caption[0]
    with pytest.raises(ValueError, match=r"there is no acuracy; there are accuracy, .* Did you mean accuracy\?"):
        table.build(runs, metrics=["acuracy"])


def test_everything_is_written_and_repeats_byte_by_byte(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(copy), "--out", str(tmp_path / "one")]) == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "one") in printed
    assert "| none" in printed
    again = [sys.executable, "-m", "efface.report", str(copy), "--out", str(tmp_path / "two")]
    subprocess.run(again, check=True, capture_output=True)  # another process has other hashes
    names = {path.name for path in (tmp_path / "one").iterdir()}
    drawn = {
        f"{name}.{kind}" for name in ("accuracy_against_bias", "leakage", "training_curves") for kind in ("png", "svg")
    }
    assert names == {"index.html", "runs.csv", "histories.csv", "table.md", "table.csv", "table.tex", *drawn}
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert len(pd.read_csv(tmp_path / "one" / "runs.csv")) == 5
    latex = (tmp_path / "one" / "table.tex").read_text()
    for word in (r"\toprule", r"\cmidrule(lr)", r"\textbf{", r"colored\_mnist\_mini", r"\uparrow"):
        assert word in latex
    assert all(ord(sign) < 128 or sign.isalpha() for sign in latex)  # letters with accents; signs are commands
    assert not any(sign in latex for sign in "ŷμΣ")


def test_the_page_holds_every_number_with_its_runs_and_fetches_nothing(copy: Path) -> None:
    assert main([str(copy)]) == 0
    page = (copy / "report" / "index.html").read_text()
    made = table.build(collect(copy).runs)
    for cell in made.cells.values():
        assert cell.text in page
        for run in cell.runs:
            assert f"seed {run.seed}: {run.value:.6g}" in page
            assert f"  {run.path}" in page
    assert "default-src 'none'" in page
    assert page.count("data:image/svg+xml;base64,") == 3
    for word in ("http://", "https://", '<link rel="stylesheet', 'src="/'):
        assert word not in page


def test_a_folder_with_runs_csv_gives_the_same_table(copy: Path, tmp_path: Path) -> None:
    main([str(copy), "--out", str(tmp_path / "first")])
    main([str(tmp_path / "first"), "--out", str(tmp_path / "second")])
    for name in ("table.md", "table.tex", "table.csv", "runs.csv", "leakage.svg", "training_curves.svg"):
        assert (tmp_path / "first" / name).read_text() == (tmp_path / "second" / name).read_text(), name


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of a report's time."""
    monkeypatch.setattr("efface.report.__main__.draw", lambda collection, folder: [])


@pytest.mark.usefixtures("no_plots")
def test_out_must_be_a_folder(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main([str(copy), "--out", str(out)]) == 1
        assert "is a file, or lies below one" in capsys.readouterr().err


def test_a_failed_run_counts_where_others_of_it_are_done_and_is_no_row_elsewhere(copy: Path) -> None:
    path = record_of(copy, "none", "seed=1")
    error = Record.read(path).model_copy(update={"status": "failed", "reason": "ValueError: no", "metrics": {}})
    (path.parent / "error.json").write_text(error.to_json())
    assert len(collect(copy).runs) == 5
    assert collect(copy).failures == ()  # it has been finished since
    path.unlink()
    collection = collect(copy)
    made = table.build(collection.runs, failures=collection.failures)
    assert made.cell("none", (BIASED, "n")).text == "1 of 2"
    assert any("seed 1: failed: ValueError: no" in note for note in made.notes)
    typo = path.parent.parent.with_name("00000000") / "seed=0"
    typo.mkdir(parents=True)
    config = {**error.config, "method": {"name": "none", "rank": "abc"}}
    typo_error = error.model_copy(update={"config": config, "id": run_id(config), "seed": 0})
    (typo / "error.json").write_text(typo_error.to_json())
    again = collect(copy)
    assert list(again.runs["method"]) == list(collection.runs["method"])
    assert len(again.failures) == 2
    assert any("00000000/seed=0: ValueError: no" in failure for failure in again.failures)


def broken(copy: Path, kind: str) -> None:
    """Break one record of the folder."""
    path = record_of(copy, "none", "seed=1")
    record = Record.read(path)
    if kind == "damaged":
        path.write_text("{")
    elif kind == "schema":
        path.write_text(record.model_copy(update={"schema_version": 7}).to_json())
    elif kind == "hash":
        config = {**record.config, "method": {"name": "none", "tampered": 1}}
        path.write_text(record.model_copy(update={"config": config}).to_json())
    else:
        twin = path.parent.with_name("seed=1 again")
        twin.mkdir()
        metrics = {**record.metrics, "accuracy": 0.1} if kind == "other twin" else record.metrics
        (twin / "record.json").write_text(record.model_copy(update={"metrics": metrics, "run": {}}).to_json())


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    ("kind", "message", "left"),
    [
        ("damaged", "record.json is damaged", 4),
        ("schema", "has schema version 7", 4),
        ("hash", "but its configuration hashes to", 4),
        ("twin", "with the same metrics: the first is taken", 5),
        ("other twin", "with OTHER metrics: the first is taken", 5),
    ],
)
def test_untrustworthy_records_are_left_out_and_named(
    copy: Path, capsys: pytest.CaptureFixture[str], kind: str, message: str, left: int
) -> None:
    broken(copy, kind)
    assert len(collect(copy).runs) == left
    assert main([str(copy)]) == 1
    errors = capsys.readouterr().err
    assert "left out: " in errors
    assert message in errors
    assert message in (copy / "report" / "index.html").read_text()


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("field", ["commit", "versions", "device", "threads", "fingerprint"])
def test_runs_that_are_hard_to_compare_are_flagged(copy: Path, capsys: pytest.CaptureFixture[str], field: str) -> None:
    path = record_of(copy, "none", "seed=1")
    record = Record.read(path)
    run = {**record.run, "commit": "0123456789ab"} if field == "commit" else record.run
    run = {**run, "versions": {**run["versions"], "torch": "1.0"}} if field == "versions" else run
    run = {**run, "device": "a card"} if field == "device" else {**run, "threads": 99} if field == "threads" else run
    update = {"run": run} | ({"fingerprint": "of other data"} if field == "fingerprint" else {})
    path.write_text(record.model_copy(update=update).to_json())
    assert main([str(copy)]) == 0
    expected = {
        "commit": "0123456789ab (1 runs)",
        "versions": "mixed versions of torch: 1.0 (1 runs)",
        "device": "a card (1 runs)",
        "threads": "99 (1 runs)",
        "fingerprint": "of other data",
    }
    assert f"flagged: {'mixed' if field != 'fingerprint' else BIASED}" in capsys.readouterr().err
    assert expected[field] in (copy / "report" / "table.md").read_text()


def test_an_empty_folder_says_what_to_run(tmp_path: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        assert main([str(folder)]) == 1
        assert "python run.py method=leace" in capsys.readouterr().err
    for path in copy.rglob("record.json"):
        failed = Record.read(path).model_copy(update={"status": "failed", "reason": "OSError: full"})
        (path.parent / "error.json").write_text(failed.to_json())
        path.unlink()
    assert main([str(copy)]) == 1
    assert capsys.readouterr().err.count("OSError: full") == 5


def test_a_table_of_other_columns_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs.csv").write_text("dataset,method\nd,m\n")
    assert main([str(tmp_path)]) == 1
    assert "has no column model, training, id, seed" in capsys.readouterr().err


def test_ranks_are_drawn_where_there_are_several(copy: Path, tmp_path: Path) -> None:
    runs = collect(copy).runs
    assert set(runs.loc[runs["method_name"] == "leace", "rank"].dropna()) == {9}
    assert plots.probe_against_rank(runs, tmp_path) == []
    row = runs[(runs["method"] == "leace refit_head=true") & (runs["status"] == "done")]
    for rank in (4, 9):
        runs = pd.concat([runs, row.assign(rank=rank, method=f"leace rank={rank} refit_head=true")])
    (drawn,) = plots.probe_against_rank(runs[runs["status"] == "done"], tmp_path)
    assert [path.name for path in drawn.paths] == ["probe_against_rank.png", "probe_against_rank.svg"]
    text = drawn.paths[1].read_text()
    for word in ("directions removed", "probe information, bits", "majority", "base model"):
        assert f"<!-- {word} -->" in text


def test_time_is_drawn_where_there_are_several_sizes(copy: Path, tmp_path: Path) -> None:
    runs = collect(copy).runs
    done = runs[runs["status"] == "done"]
    assert plots.time_against_size(done, tmp_path) == []
    twice = pd.concat([done, done.assign(d=done["d"] * 2)])
    (drawn,) = plots.time_against_size(twice, tmp_path)
    assert "<!-- seconds of the method -->" in drawn.paths[1].read_text()


def test_influence_is_drawn_with_its_images_where_it_was_kept(copy: Path, tmp_path: Path) -> None:
    path = record_of(copy, "none", "seed=0")
    record = Record.read(path)
    path.write_text(record.model_copy(update={"artifacts": {**record.artifacts, "arrays.safetensors": None}}).to_json())
    collection = collect(copy)
    done = collection.runs[collection.runs["status"] == "done"]
    assert plots.influence(done, collection.arrays, tmp_path) == []  # named, but not there
    draw = np.random.default_rng(0)
    arrays = {"influence": draw.standard_t(3, size=3000).astype(np.float32)}
    save_file(arrays, path.parent / "arrays.safetensors")
    (drawn,) = plots.influence(done, collection.arrays, tmp_path)
    assert "raise the bias most" not in drawn.paths[1].read_text()
    images = {
        f"{name}_images": draw.integers(0, 255, (8, 28, 28, 3), dtype=np.uint8) for name in ("harmful", "helpful")
    }
    save_file(arrays | images, path.parent / "arrays.safetensors")
    (drawn,) = plots.influence(done, collection.arrays, tmp_path)
    text = drawn.paths[1].read_text()
    assert drawn.name == f"influence_{record.id}"
    assert text.count("<image") == 16
    for word in ("raise the bias most", "lower the bias most", "influence on the bias"):
        assert f"<!-- {word} -->" in text


def test_the_pareto_front_is_what_nothing_dominates() -> None:
    from efface.report.plots.tradeoff import front

    means = {"best": (0.1, 0.9), "worse": (0.2, 0.8), "least": (0.0, 0.5), "more": (0.3, 0.95), "same": (0.1, 0.85)}
    assert front(means) == ["least", "best", "more"]


def test_no_torch_is_loaded() -> None:
    code = "import sys, efface.report.__main__, efface.report.plots; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
