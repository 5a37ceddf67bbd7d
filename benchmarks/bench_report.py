"""A thousand records into tables, plots and a page."""

import contextlib
import io
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.timing import Row
from efface.identity import run_id, run_subdir
from efface.record import RECORD, Record

RUNS = 1000


def copies(record: Record, folder: Path, n: int) -> None:
    """Write `n` records like `record`: methods × ratios × ranks × five seeds, every metric shifted a little."""
    draw = random.Random(0)
    text = record.model_dump()
    for i in range(n):
        seed, rank, method, ratio = i % 5, i // 5 % 4 + 1, i // 20 % 10, i // 200
        copy = json.loads(json.dumps(text))
        copy["config"]["method"] |= {"name": "none" if method == 0 else f"method{method}", "rank": rank}
        copy["config"]["dataset"]["bias_ratio"] = 0.9 + ratio / 100
        copy |= {"seed": seed, "id": run_id(copy["config"])}
        for name, value in copy["metrics"].items():
            if isinstance(value, float):
                copy["metrics"][name] = value + method / 100 + draw.gauss(0, 0.01)
        copy["info"]["rank"] = rank
        path = folder / run_subdir(copy["config"], seed) / RECORD
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Record(**copy).to_json())


def rows() -> Iterator[Row]:
    """Report one run of the small data, copied."""
    import subprocess
    import sys

    from efface.report.__main__ import main

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = [f"results_dir={folder / 'one'}", f"cache_dir={folder / 'cache'}", "logger=none"]
        subprocess.run([sys.executable, "run.py", "method=leace", *places], check=True, capture_output=True)
        (path,) = (folder / "one").rglob(RECORD)
        copies(Record.read(path), folder / "many", RUNS)
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            main([str(folder / "many")])
        yield Row(f"report of {RUNS:,} records: tables, plots, page", time.perf_counter() - start, None, "limit: 10 s")
