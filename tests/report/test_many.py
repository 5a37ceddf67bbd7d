"""A thousand records, made of one real one."""

import time
from pathlib import Path

import pytest
from benchmarks.bench_report import RUNS, copies

from efface.record import Record
from efface.report import table
from efface.report.__main__ import main
from efface.report.records import collect


@pytest.mark.slow
def test_a_thousand_records_pass_through_correctly_and_soon(results: Path, tmp_path: Path) -> None:
    records = [Record.read(path) for path in results.rglob("record.json")]
    copies(next(r for r in records if r.status == "done" and r.info.get("rank")), tmp_path / "many", RUNS)
    start = time.process_time()
    assert main([str(tmp_path / "many")]) == 0
    assert time.process_time() - start < 10
    collection = collect(tmp_path / "many")
    assert len(collection.runs) == RUNS
    made = table.build(collection.runs)
    # By hand, from the files: one cell, its best, and the number of cells.
    by_id: dict[str, list[Record]] = {}
    for path in (tmp_path / "many").rglob("record.json"):
        record = Record.read(path)
        by_id.setdefault(record.id, []).append(record)
    column = ("colored_mnist_mini bias_ratio=0.92", "unbiased acc. ↑")
    means = {}
    for of in by_id.values():
        assert sorted(record.seed for record in of) == list(range(5))
        if of[0].config["dataset"]["bias_ratio"] == 0.92:
            row = f"{of[0].config['method']['name']} rank={of[0].config['method']['rank']}"
            means[row] = sum(record.metrics["unbiased_accuracy"] for record in of) / 5
            assert made.cell(row, column).text.startswith(f"{means[row]:.3f} ± ")
    assert len(means) == 40
    assert {row for row in made.rows if made.cell(row, column).mark == "best"} == {max(means, key=means.__getitem__)}
    page = (tmp_path / "many" / "report" / "index.html").read_text()
    assert page.count('class="number"') == sum(bool(cell.runs) for cell in made.cells.values())
