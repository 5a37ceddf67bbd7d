"""Any single broken record and any text in a label: each costs no more than itself."""

import contextlib
import copy
import csv
import itertools
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from safetensors.numpy import save_file
from tests.report.test_faults import record
from tests.report.test_labels import config

from efface.identity import run_id
from efface.report import plots, render, table
from efface.report.__main__ import main
from efface.report.labels import printable, show
from efface.report.page import page
from efface.report.plots import tradeoff
from efface.report.plots.style import LONGEST, legible
from efface.report.records import collect

FULL: dict[str, Any] = {
    "metrics": {"accuracy": 0.5, "unbiased_accuracy": 0.6, "group_accuracy": {"y=0,a=0": None}},
    "metrics_ci": {"accuracy": [0.4, 0.6], "unbiased_accuracy": None},
    "val_metrics": {"accuracy": 0.5},
    "info": {
        "rank": 1,
        "n_fit": 10,
        "d": 3,
        "head": "kept",
        "at_edge": True,
        "reasons": {"theil_index": "no"},
        "uses_attribute_at_test": False,
        "training": {"history": [{"epoch": 0, "loss": 0.5}]},
        "layers": [{"path": "a", "probe_information": 0.3}],
    },
    "artifacts": {"debiased.safetensors": "00"},
    "run": {
        "seconds": {"method": 0.5},
        "cache_hit": {"model": True},
        "peak_memory_bytes": 10,
        "device": "cpu",
        "threads": 1,
        "processor": "c",
        "commit": "abc",
        "versions": {"torch": "1"},
        "host": "h",
    },
    "reason": None,
}
"""A record with something in every place that a report reads."""
WRONG: tuple[Any, ...] = (None, 1e308, 10**400, "a\n\\input{x}", "\x00", [[None]], {"a": {"b": [1]}})
MORE: tuple[Any, ...] = (
    -1,
    2**62,
    1e-300,
    float("nan"),
    float("-inf"),
    "",
    "\ud800",
    True,
    [],
    [1],
    ["a"],
    {},
    {"": None},
)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON document that could hold something else."""
    yield place
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*place, key))


def replaced(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    changed = copy.deepcopy(document)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


def attacks(folder: Path, values: tuple[Any, ...]) -> int:
    """Write a broken record for each place and each wrong value, beside two good ones. Returns how many are broken."""
    for seed in (0, 1):
        good = record(folder, seed=seed, **FULL)
    document = json.loads(good.read_text())
    seeds = itertools.count(2)
    for place, value in itertools.product(places(document), values):
        seed = next(seeds)
        bad = replaced({**document, "seed": seed}, place, value)
        if place[:1] == ("config",):
            with contextlib.suppress(
                KeyError, TypeError, AttributeError, OverflowError
            ):  # of what is no configuration at all
                bad["id"] = run_id(bad["config"])
        path = folder / "bad" / f"seed={seed}" / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(bad))
    return next(seeds) - 2


@pytest.mark.parametrize("values", [WRONG, pytest.param(MORE, marks=pytest.mark.slow)], ids=["some", "more"])
def test_whatever_one_record_holds_the_others_are_reported(
    tmp_path: Path, write_csv: Callable[[Path, Path], None], values: tuple[Any, ...]
) -> None:
    """Covers faults B9."""
    broken = attacks(tmp_path / "results", values)
    collection = collect(tmp_path / "results")
    runs, problems = collection.runs, collection.problems
    assert broken > 50 * len(values)
    assert len(runs) + len(problems) == broken + 2
    assert broken / 3 < len(problems) < broken  # some values are as good as the right one
    for problem in problems:
        assert len(problem.splitlines()) == 1
        assert re.search(r"bad/seed=\d+", problem), problem
    good = runs[(runs["id"] == run_id(config())) & runs["seed"].isin([0, 1])]
    assert good[["accuracy", "rank", "head"]].to_numpy().tolist() == [[0.5, 1, "kept"]] * 2
    # What was taken goes through every stage, and comes back from runs.csv.
    made = table.build(runs)
    for text in (
        render.markdown(made),
        render.latex(made),
        render.to_csv(made),
        page([made], collection, (), tmp_path),
    ):
        assert not re.search(r"^\s*\\input", text, re.MULTILINE)
        assert "\x00" not in text
    write_csv(tmp_path / "results", tmp_path)
    again = collect(tmp_path / "csv").runs
    pd.testing.assert_frame_equal(again[["method", "id", "seed"]], runs[["method", "id", "seed"]], check_dtype=False)


LABELS = (
    "q$1^$.npz",
    "a$\\foo$b",
    "50%_{x}",
    "_hidden",
    "a--b",
    "]]>",
    "<script>alert(1)</script>",
    "a|b",
    "`a`",
    "**a**",
    "=1+1",
    "@a",
    "nan",
    "NA",
    "null",
    "None",
    "",
    " ",
    "1e3",
    "a\n# b",
    "a\r\n|b|",
    "\x00\x1b[31m",
    "\u202egnp.exe",
    "\u2028x",
    "\N{GRINNING FACE}",
    "ÄÖ ü",
    "\\input{x}",
    "&amp;",
    "\"'",
    "y" * 400,
    "y" * 399 + "z",
    "<!-- /table -->",
)


@pytest.mark.slow
def test_any_text_in_a_label_is_shown_drawn_and_read_back(
    tmp_path: Path, write_csv: Callable[[Path, Path], None]
) -> None:
    """Covers faults B9, B13."""
    for text in LABELS:
        metrics = {"unbiased_accuracy": 0.5, "counterfactual_bias": 0.1, "probe_information": 0.2}
        info = {"rank": 1, "n_fit": 10, "d": len(text) + 1, "training": {"history": [{"epoch": 0, "loss": 0.5}]}}
        run = {"seconds": {"method": 0.5}, "commit": text, "processor": text}
        for nodes in ({"method": {"path": text}}, {"method": {"name": f"m{text}"}}):
            record(tmp_path / "results", nodes, metrics=metrics, info=info, run=run)
    (tmp_path / "results" / "README.md").write_text(f"{MARKER}\n")
    assert main([str(tmp_path / "results")]) == 0
    runs = collect(tmp_path / "results").runs
    assert len(runs) == 2 * len(LABELS)
    check_report(tmp_path / "results" / "report", rows=len(table.build(runs).rows))
    write_csv(tmp_path / "results", tmp_path)
    again = collect(tmp_path / "csv").runs
    pd.testing.assert_frame_equal(again[["method", "id"]], runs[["method", "id"]], check_dtype=False)


MARKER = "<!-- table: rows=id,method metrics=n -->\n<!-- /table -->"


def check_report(report: Path, *, rows: int) -> None:
    """Each file has as many rows as it should, and is what its ending says."""
    markdown = [line for line in (report / "table.md").read_text().split("\n") if line.startswith("|")]
    assert len(markdown) == rows + 2
    assert len({line.replace(r"\|", "").count("|") for line in markdown}) == 1
    page = (report.parent / "README.md").read_text()
    assert page.count("<!-- /table -->") == 1
    assert len([line for line in page.split("\n") if line.startswith("|")]) == rows + 2
    latex = (report / "table.tex").read_text().split("\n")
    assert sum(line.endswith(r" \\") for line in latex) == rows + 1
    with (report / "table.csv").open(newline="") as lines:
        cells = list(csv.reader(lines))
    assert len(cells) == rows + 2
    assert not [cell for row in cells for cell in row if cell[:1] in ("=", "@", "+")]
    for path in report.glob("*.svg"):
        ET.parse(path)
    assert "<script>alert" not in (report / "index.html").read_text()


def test_labels_are_printable_and_those_of_plots_short_and_different() -> None:
    assert printable("a\nb\x00\u202eÄ \N{GRINNING FACE}") == "a\\nb\\x00\\u202eÄ \N{GRINNING FACE}"
    assert show("a\x1bb c") == "a\\x1bbc"
    names = ["y" * 400, "y" * 399 + "z", "y" * 200 + "x" + "y" * 199, "_a", "none"]
    runs = pd.DataFrame({"dataset": "d", "model": "m", "training": "t", "method": names})
    short = legible(runs)["method"].tolist()
    assert len(set(short)) == len(names)
    assert max(map(len, short)) <= LONGEST + len(" (2)")
    assert (short[3], short[4]) == ("\N{NO-BREAK SPACE}_a", "none")


def test_a_plot_of_very_many_settings_is_within_what_a_png_can_be(tmp_path: Path) -> None:
    figure = plt.figure(figsize=(2, 400))
    (plot,) = plots.style.save(figure, tmp_path, "tall", "")
    width, height = np.frombuffer(plot.paths[0].read_bytes()[16:24], dtype=">u4")
    assert 2**15 < height < 2**16
    assert width * 200 == pytest.approx(height, rel=0.01)


@pytest.mark.parametrize(
    "arrays",
    [
        {"influence": np.full(50, np.nan, dtype=np.float32)},
        {"influence": np.array([1e38, -1e38, 0, np.inf, 1], dtype=np.float32)},
        {"influence": np.ones((3, 3)), "harmful_images": np.zeros((2, 3), dtype=np.uint8)},
        {"influence": np.ones(3), "helpful_images": np.zeros((2, 4, 4, 7), dtype=np.uint8)},
        {"influence": np.ones(3), "helpful_images": np.zeros((2, 4, 4, 3), dtype=np.float32)},
        {"other": np.ones(3)},
    ],
)
def test_arrays_of_any_kind_cost_no_report(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Covers faults B9."""
    metrics = {"unbiased_accuracy": 0.5, "counterfactual_bias": 0.1}
    path = record(tmp_path, metrics=metrics, artifacts={"arrays.safetensors": None})
    save_file(arrays, path.parent / "arrays.safetensors")
    assert main([str(tmp_path)]) == 0
    drawn = [file.name for file in (tmp_path / "report").glob("influence_*.png")]
    assert len(drawn) == any(np.isfinite(arrays.get("influence", np.nan)).ravel())


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("method", "", "method is None, which is empty"),
        ("head", "glued", "head is 'glued', which is none of kept, fitted"),
        ("at_edge", "maybe", "at_edge is 'maybe', which is none of True, False"),
        ("uses_attribute_at_test", "7", "which is none of True, False"),
        ("accuracy_low", "low", "accuracy_low is 'low', which is no finite number"),
        ("threads", "two", "threads is 'two', which is no finite number"),
        ("seconds_method", "1e200", "which is no finite number"),
        ("accuracy", "nan", "accuracy is 'nan', which is no finite number"),
    ],
)
def test_a_wrong_cell_of_runs_csv_is_named_with_its_line(tmp_path: Path, column: str, cell: str, message: str) -> None:
    """Covers faults B9."""
    names = (
        "dataset,model,training,method,id,seed,status,reason,accuracy,accuracy_low,head,at_edge,uses_attribute_at_test"
    )
    good = dict.fromkeys(f"{names},threads,seconds_method".split(","), "") | {
        "dataset": "d",
        "model": "m",
        "training": "t",
        "method": "leace",
        "id": "1",
        "seed": "0",
        "status": "done",
        "accuracy": "0.5",
    }
    lines = [",".join(good), ",".join(good.values()), ",".join((good | {column: cell}).values())]
    (tmp_path / "runs.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        collect(tmp_path)
    assert f"{tmp_path / 'runs.csv'}, line 3: " in str(error.value)


def test_what_a_plot_compares_is_compared_on_common_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Covers audit B7."""
    values = {"none": {0: 0.5, 1: 0.5}, "good": {0: 0.8, 1: 0.8}, "lucky": {9: 0.99}}
    for method, by_seed in values.items():
        for seed, accuracy in by_seed.items():
            bias = {"counterfactual_bias": 0.3 if method == "none" else 0.1, "probe_information": 0.1}
            metrics = {"unbiased_accuracy": accuracy, **bias}
            record(tmp_path / "results", {"method": {"name": method}}, seed=seed, metrics=metrics)
    compared: list[dict[str, tuple[float, float]]] = []
    original = tradeoff.front
    monkeypatch.setattr(tradeoff, "front", lambda means: [compared.append(means), original(means)][1])
    runs = collect(tmp_path / "results").runs
    (plot,) = tradeoff.accuracy_against_bias(runs, tmp_path)
    assert [set(means) for means in compared] == [{"none", "good"}] * 2
    assert "over common seeds" in plot.caption
    # No seed in common: each is drawn, and none is compared.
    (plot,) = tradeoff.accuracy_against_bias(runs[runs["method"] != "none"], tmp_path)
    assert compared[2:] == [{}, {}]
