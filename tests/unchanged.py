"""A fixed set of runs whose metrics a change of names must not change: `python -m tests.unchanged [--write]`.

Every method on the mini data set with ten classes and with two, and on UCI Adult; removals one by one, certified and as
published; one scrubbing run. They go through the command line alone, so that the same file serves before and after a
move. Metrics are those of val and test; `DATA_DIR` names the data.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
STORED = Path(__file__).with_name("unchanged.json")
METHODS = (
    "none,leace,leace_orth,oracle_leace,qleace,rlace,inlp,mean_projection,pca,random_projection,unaware,converge,"
    "fmd,fmd_unlearn,fmd_replace,retrain,dfr,dfr_published"
)
QUICK = ("evaluation.mlp_probe=false", "evaluation.bootstrap=0")
COMMANDS: dict[str, tuple[str, ...]] = {
    # Few epochs: a longer training amplifies rounding until it differs from machine to machine.
    "mini": ("dataset=colored_mnist_mini", "training.epochs=3", f"method={METHODS}", *QUICK),
    "digits": ("dataset=colored_mnist_mini", "dataset.classes=[3,8]", "training.epochs=3", f"method={METHODS}", *QUICK),
    "top": ("dataset=colored_mnist_mini", "training.epochs=3", "method=fmd_top", "method.alpha=[0.8]", *QUICK),
    "published": (
        "dataset=colored_mnist_mini",
        "training.epochs=3",
        "method=fmd_published",
        "method.damping=0.1",
        "method.number=200",
        *QUICK,
    ),
    "adult": ("dataset=adult", "training.epochs=5", f"method={METHODS}", *QUICK),
    "certified": (
        "dataset=colored_mnist_mini",
        "dataset.classes=[3,8]",
        "model=linear",
        "training.epochs=3",
        "method=certified",
        "method.removals=10",
        "method.batch_size=1",
        "method.secret=false",
        *QUICK,
    ),
    "certified_published": (
        "dataset=colored_mnist_mini",
        "dataset.classes=[3,8]",
        "model=linear",
        "training.epochs=3",
        "method=certified_published",
        "method.removals=10",
        "method.batch_size=1",
        "method.sigma=10",
        *QUICK,
    ),
    "scrubbing": (
        "--config-name=scrubbing",
        "dataset.train_documents=20",
        "model.hidden_size=32",
        "model.layers=2",
        "model.intermediate_size=64",
        "model.vocab_size=320",
        "model.max_length=48",
        "training.epochs=1",
        "evaluation.probe_tokens=1000",
        "method=leace",
    ),
}
TOLERANCE = {"rel": 2e-2, "abs": 4e-3}
"""Between machines. On one machine, `--exact` asks for five digits."""


def measure(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Metrics by `<command> <method>`, from runs in a temporary folder."""
    measured = {}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            places = [f"results_dir={folder}/results", f"cache_dir={folder}/cache", "logger=none", "device=cpu"]
            command = [sys.executable, str(ROOT / "run.py"), "-m", *COMMANDS[name], *places]
            subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
            for path in sorted(Path(folder).rglob("record.json")):
                record = json.loads(path.read_text())
                measured[f"{name} {record['config']['method']['name']}"] = {
                    "status": record["status"],
                    **{f"test {metric}": value for metric, value in record["metrics"].items()},
                    **{f"val {metric}": value for metric, value in record["val_metrics"].items()},
                }
    return measured


def differences(
    stored: dict[str, dict[str, Any]], measured: dict[str, dict[str, Any]], *, rel: float, abs_: float
) -> Iterator[str]:
    """What differs, in words, among the runs that were measured."""
    for run, values in measured.items():
        before = stored.get(run)
        if before is None:
            yield f"{run}: not stored"
            continue
        for metric in sorted(before.keys() | values.keys()):
            one, other = before.get(metric), values.get(metric)
            if isinstance(one, float | int) and isinstance(other, float | int):
                same = math.isclose(one, other, rel_tol=rel, abs_tol=abs_)
            elif isinstance(one, dict) and isinstance(other, dict):
                same = one.keys() == other.keys()
            else:
                same = one == other
            if not same:
                yield f"{run}: {metric} was {one}, is {other}"


def main() -> int:
    """Measure, and compare with what is stored or store it."""
    parser = argparse.ArgumentParser(prog="python -m tests.unchanged", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(COMMANDS), help=f"of {', '.join(COMMANDS)} (default: all)")
    parser.add_argument("--write", action="store_true", help="store what was measured")
    parser.add_argument("--exact", action="store_true", help="compare to five digits")
    options = parser.parse_args()
    stored = json.loads(STORED.read_text()) if STORED.is_file() else {}
    measured = measure(options.names)
    if options.write:
        STORED.write_text(json.dumps(stored | measured, indent=1, sort_keys=True) + "\n")
        return 0
    rel, abs_ = (1e-5, 1e-6) if options.exact else (TOLERANCE["rel"], TOLERANCE["abs"])
    lines = list(differences(stored, measured, rel=rel, abs_=abs_))
    print("\n".join(lines) or f"{len(measured)} runs as they were")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
