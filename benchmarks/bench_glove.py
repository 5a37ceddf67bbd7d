"""R-LACE on GloVe: the closed form beside the published algorithm, with the settings of the paper's script."""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.bench_rlace import one_thread, probe
from benchmarks.timing import Row, seconds
from efface.data.glove import Glove
from efface.erasure.rlace import RlaceEraser

SEEDS = 5
PLAYER = {"lr": 0.001, "weight_decay": 1e-5, "momentum": 0.9}
"""Of `glove/run_glove.py` of shauli-ravfogel/rlace-icml, as are the numbers below."""
ITERATIONS, BATCH, EPSILON = 60_000, 64, 0.002


def rows() -> Iterator[Row]:
    """Time the erasure of gender at rank 1; needs GloVe in DATA_DIR."""
    with tempfile.TemporaryDirectory() as folder:
        data = Glove().load(data_dir=Path(os.environ.get("DATA_DIR", "data")), cache_dir=Path(folder), seed=0)
    x, x_dev = (split.inputs(torch.arange(len(split))) for split in (data.train, data.test))
    a = data.train.a
    ours = seconds(lambda: RlaceEraser.fit(x, a, rank=1))
    times, erasers = [], [RlaceEraser.fit(x, a, rank=1)]
    with one_thread():
        for seed in range(SEEDS):
            start = time.perf_counter()
            erasers.append(published(x, a, seed))
            times.append(time.perf_counter() - start)
    probes = [probe(eraser.P, x, a, x_dev, data.test.a) for eraser in erasers]
    iterations = sorted({eraser.solution.iterations for eraser in erasers[1:] if eraser.solution})
    yield Row(
        f"R-LACE, gender in GloVe, n = {len(x):,}, d = {x.shape[1]}, rank 1",
        ours,
        statistics.median(times),
        f"published SGD until it stops, median of {SEEDS} seeds",
        f"probe held out {probes[0]} against {', '.join(probes[1:])}, majority 0.500; "
        f"{' to '.join(f'{n:,}' for n in dict.fromkeys((iterations[0], iterations[-1])))} iterations",
    )


def published(x: Tensor, a: Tensor, seed: int) -> RlaceEraser:
    """Return what the published algorithm finds with the settings of its script."""
    return RlaceEraser.fit(
        x,
        a,
        rank=1,
        solver="sgd",
        seed=seed,
        out_iters=ITERATIONS,
        batch_size=BATCH,
        epsilon=EPSILON,
        optimizer_params_P=PLAYER,
        optimizer_params_predictor=PLAYER,
    )
