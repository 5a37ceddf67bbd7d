"""Foreign, tampered and damaged records, and full disks: no report is lost to one of them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.report.test_labels import config

from efface.identity import run_id
from efface.record import RECORD, Record
from efface.report import frames, plots, table
from efface.report.__main__ import main
from efface.report.cells import Number, number
from efface.report.records import collect


def record(folder: Path, nodes: dict[str, Any] | None = None, **fields: Any) -> Path:
    """Write one record, with these fields. Returns its file."""
    configured = config(**(nodes or {}))
    path = folder / run_id(configured) / f"seed={fields.get('seed', 0)}" / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {"id": run_id(configured), "config": configured, "seed": 0, "fingerprint": "f", "status": "done"}
    path.write_text(json.dumps({**Record(**known).model_dump(), **known, "metrics": {"accuracy": 0.5}, **fields}))
    return path


BAD: dict[str, dict[str, Any]] = {
    "a metric that is infinite": {"metrics": {"accuracy": float("inf")}},
    "a metric that is no number": {"metrics": {"accuracy": "high"}},
    "a metric that is a list": {"metrics": {"accuracy": [0.5]}},
    "a metric too large for a float": {"metrics": {"accuracy": 10**400}},
    "a rank that is no number": {"info": {"rank": "one"}},
    "a size that is no number": {"info": {"d": "wide"}},
    "memory that is no number": {"run": {"peak_memory_bytes": "much"}},
    "seconds that are no number": {"run": {"seconds": {"method": "long"}}},
    "seconds that are no dict": {"run": {"seconds": 3}},
    "reasons that are no dict": {"info": {"reasons": 7}},
    "a history of no numbers": {"info": {"training": {"history": [{"epoch": 0, "loss": "low"}]}}},
    "a training that is no dict": {"info": {"training": 3}},
    "layers of no numbers": {"info": {"layers": [{"path": "a", "probe_information": "much"}]}},
    "places of no words": {"info": {"plane": {"words": ["he"], "attributes": [], "before": [], "after": []}}},
    "a place that is no number": {
        "info": {"plane": {"words": ["he"], "attributes": ["male"], "before": [["x", 0]], "after": [[0, 0]]}}
    },
    "a word that is no string": {
        "info": {"plane": {"words": [7], "attributes": ["male"], "before": [[0, 0]], "after": [[0, 0]]}}
    },
    "neighbours of unlike words": {"info": {"neighbours": {"before": {"he": ["she"]}, "after": {}}}},
    "a name that is missing": {"config": {**config(), "method": {}}, "id": run_id({**config(), "method": {}})},
    "nothing but a brace": {},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_left_out_with_its_path(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Covers faults B9."""
    monkeypatch.setattr("efface.report.__main__.draw", lambda collection, folder: [])
    record(tmp_path)
    bad = record(tmp_path, {"method": {"rank": 2}}, **BAD[name])
    if not BAD[name]:
        bad.write_bytes(b"{\xff\n")
    assert main([str(tmp_path)]) == 1
    assert len(collect(tmp_path).runs) == 1
    assert f"left out: {bad}" in capsys.readouterr().err
    assert "| leace | " in (tmp_path / "report" / "table.md").read_text()


def test_a_metric_cannot_take_the_place_of_what_names_a_run(tmp_path: Path) -> None:
    record(tmp_path, metrics={"accuracy": 0.5, "method": 3, "seed": 9, "status": "failed", "id": 1})
    (run,) = collect(tmp_path).runs.to_dict("records")
    assert (run["method"], run["seed"], run["status"], run["id"]) == ("leace", 0, "done", run_id(config()))


@pytest.mark.parametrize("name", ["q$1^$.npz", "a$\\foo$b", "50%_{x}"])
def test_names_that_look_like_formulas_are_drawn_and_written(tmp_path: Path, name: str) -> None:
    """Covers faults B9."""
    for value in (name, "other"):
        for seed in (0, 1):
            metrics = {"unbiased_accuracy": 0.5 + seed / 10, "counterfactual_bias": 0.1, "probe_information": 0.2}
            info = {"n_fit": 10 ** (3 + seed), "d": 3, "rank": seed + 1}
            run = {"seconds": {"method": 0.5 + seed}}
            nodes = {"dataset": {"path": value}, "method": {"path": value}}
            record(tmp_path, nodes, seed=seed, metrics=metrics, info=info, run=run)
    assert main([str(tmp_path)]) == 0
    for plot in ("accuracy_against_bias", "leakage", "time_against_size", "probe_against_rank"):
        text = (tmp_path / "report" / f"{plot}.svg").read_text()
        assert "mathdefault" not in text
        assert name in text or plot == "time_against_size"  # which names methods, not settings


HOSTILE = {
    "reason": "no\n\\input{/etc/passwd}\n# heading\n<script>alert(1)</script>",
    "commit": "abc\n\\input{/etc/passwd}",
    "method": "<img src=x onerror=alert(1)>",
    "option": "=1+1|cmd",
}


def test_foreign_text_stays_text(tmp_path: Path) -> None:
    """Covers faults B13."""
    run = dict.fromkeys(("commit", "processor", "device"), HOSTILE["commit"]) | {"versions": {"\n# a": "\n# b"}}
    record(tmp_path, {"method": {"name": HOSTILE["method"]}}, run=run, fingerprint=HOSTILE["commit"])
    record(tmp_path, {"method": {"path": HOSTILE["option"]}}, run={"processor": HOSTILE["option"]})
    record(tmp_path, {"method": {"name": "=sum"}, "dataset": {"name": "@data"}})
    failing = record(tmp_path, seed=1, status="failed", reason=HOSTILE["reason"], metrics={})
    failing.rename(failing.with_name("error.json"))
    record(tmp_path)
    assert main([str(tmp_path)]) == 0
    report = tmp_path / "report"
    for file in ("table.md", "table.tex"):
        text = (report / file).read_text()
        assert not any(line.lstrip().startswith(("\\input", "# heading")) for line in text.splitlines())
    markdown, page = (report / "table.md").read_text(), (report / "index.html").read_text()
    for word in ("<script>alert", "<img src=x", "<img_src=x"):
        assert word not in markdown
        assert word not in page
    for file in ("table.csv", "runs.csv"):
        with (report / file).open(newline="") as lines:
            cells = [cell for row in csv.reader(lines) for cell in row]
        assert not [cell for cell in cells if cell[:1] in ("=", "@")]
        assert any(cell.startswith(("'=sum", "'@data")) for cell in cells)


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("@x", "'@x"),
        ("-x", "'-x"),
        ("'=1", "''=1"),
        ("-0.5", "-0.5"),
        ("+1e-3", "+1e-3"),
        ("a=b", "a=b"),
        ("", ""),
        ("'a'", "'a'"),
    ],
)
def test_quoted_leaves_numbers_and_plain_text(cell: str, written: str) -> None:
    assert frames.quoted(cell) == written


def test_quoted_cells_are_read_back_as_they_were(tmp_path: Path, write_csv: Callable[[Path, Path], None]) -> None:
    for rank, reason in enumerate(("=1+1", "'=1", "-x", "-0.5", "plain")):
        record(tmp_path / "results", {"method": {"rank": rank}}, status="not_applicable", reason=reason)
    write_csv(tmp_path / "results", tmp_path)
    assert list(collect(tmp_path / "csv").runs["reason"]) == list(collect(tmp_path / "results").runs["reason"])


LINE = "digits,mlp,erm,leace,1,0,done,,0.5"
HEADER = "dataset,model,training,method,id,seed,status,reason,accuracy"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a table"),
        (b"\xff\xfe\x00\x80", "cannot be read as a table"),
        (HEADER.encode(), "holds no run"),
        (
            f"{HEADER}\n{LINE.replace(',1,0,', ',1,zero,')}".encode(),
            "line 2: seed is 'zero', which is no finite number",
        ),
        (f"{HEADER}\n{LINE}\n{LINE.replace('0.5', 'high')}".encode(), "line 3: accuracy is 'high', which is no finite"),
        (f"{HEADER}\n{LINE.replace('0.5', 'inf')}".encode(), "line 2: accuracy is inf, which is no finite number"),
        (f"{HEADER}\n{LINE.replace('done', 'fine')}".encode(), "line 2: status is 'fine', which is none of done"),
        (f"{HEADER},method_options\n{LINE},rank=1".encode(), "method_options is 'rank=1', which is no JSON object"),
    ],
)
def test_a_bad_runs_csv_is_named_with_its_line(
    tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Covers faults B9."""
    (tmp_path / "runs.csv").write_bytes(content)
    assert main([str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path / "runs.csv") in error
    assert message in error


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_published_numbers_that_are_named_must_exist(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Covers faults B10."""
    record(tmp_path / "results")
    (tmp_path / "folder").mkdir()
    assert main([str(tmp_path / "results"), "--published", str(tmp_path / kind)]) == 1
    assert f"--published: there is no file {tmp_path / kind}" in capsys.readouterr().err
    assert not (tmp_path / "results" / "report").exists()


def test_a_report_that_cannot_be_finished_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Covers faults B11."""
    record(tmp_path)
    assert main([str(tmp_path)]) == 0
    report = tmp_path / "report"
    (report / "notes.txt").write_text("of the user")
    before = {path.name: path.read_bytes() for path in report.iterdir()}
    record(tmp_path, {"method": {"rank": 2}})

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("efface.report.render.latex", full)
    assert main([str(tmp_path)]) == 1
    assert "No space left" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in report.iterdir()} == before


def test_gaps_of_language_models_have_reasons(tmp_path: Path) -> None:
    probed = {"probe_information": 0.5, "probe_accuracy": 0.5, "probe_majority": 0.4, "probe_layer": "layers.3.norm"}
    encoder = {"model": {"name": "encoder"}, "evaluation": {"probe_tokens": 10}}
    model = {"model": {"name": "lm"}, "evaluation": {"probe_tokens": 10}}
    for nodes, bits in ((encoder, None), (model, 2.5)):
        for method, covariance in (("none", None), ("leace", 1e-8)):
            named = {**nodes, "method": {"name": method}}
            record(tmp_path, named, metrics={"bits_per_byte": bits, "max_abs_cov": covariance, **probed})
    record(tmp_path, {"model": {"name": "mlp"}})
    notes = "\n".join(table.build(collect(tmp_path).runs).notes)
    assert "digits · encoder: no bits per byte: an encoder predicts no next token" in notes
    assert "digits · encoder, digits · lm: – under max |cov|: nothing was erased" in notes
    assert "digits · encoder, digits · lm: no accuracy: not defined for language models" in notes
    assert "digits · mlp: no bits per byte: defined for language models" in notes
    assert "digits · mlp: no probe info., bits; probe acc.; majority; max |cov|: not recorded by the version" in notes


def test_layers_are_drawn_from_the_csv_as_from_the_records(
    tmp_path: Path, write_csv: Callable[[Path, Path], None]
) -> None:
    for method, offset in (("none", 0.0), ("leace", 0.4)):
        for seed in (0, 1):
            layers = [
                {
                    "path": f"layers.{i}.norm",
                    "probe_information": 0.5 - offset + seed / 100 + i / 50,
                    "probe_accuracy": 0.6 - offset,
                    "probe_majority": 0.2,
                    "fit_information": None,
                }
                for i in range(3)
            ]
            metrics = {"bits_per_byte": 2.0, "probe_information": 0.5, "probe_layer": "layers.2.norm"}
            record(
                tmp_path / "results", {"method": {"name": method}}, seed=seed, info={"layers": layers}, metrics=metrics
            )
    write_csv(tmp_path / "results", tmp_path)
    drawn = []
    for folder in ("results", "csv"):
        collection = collect(tmp_path / folder)
        assert set(collection.layers["site"]) == {"layers.0.norm", "layers.1.norm", "layers.2.norm"}
        assert len(collection.layers) == 12
        (plot,) = plots.probe_by_layer(collection.runs, collection.layers, tmp_path)
        drawn.append([path.read_bytes() for path in plot.paths])
    assert drawn[0] == drawn[1]
    assert "probe_by_layer.png" in {
        path.name for plot in plots.draw(collect(tmp_path / "csv"), tmp_path) for path in plot.paths
    }


def of_values(*values: float, low: float = float("nan"), high: float = float("nan")) -> list[Number]:
    return [Number(seed, value, "path", low, high) for seed, value in enumerate(values)]


def test_small_and_empty_spreads_are_shown_with_their_power() -> None:
    assert number(of_values(2e-7, 2e-7), 3, "std") == "2e−7 ± 0"
    assert number(of_values(0.5), 3, "std") == "0.500"
    assert number(of_values(1.0, 3.0), 0, "std") == "2 ± 1"


def test_report_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    record(tmp_path)
    abandoned = tmp_path / "report" / ".report-abandoned"
    abandoned.mkdir(parents=True)
    (abandoned / ".locked").touch()
    assert main([str(tmp_path)]) == 0
    assert not list((tmp_path / "report").glob(".*"))
