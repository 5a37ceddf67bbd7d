"""LEACE of a sparse matrix beside the same matrix made dense, float32, a process for each: time and memory."""

import multiprocessing
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse

from benchmarks.timing import Row
from efface.erasure.leace import LeaceFitter
from efface.runs.provenance import PeakMemory

N, D, DENSITY = 200_000, 5_000, 0.01
SAMPLE = 2_000
"""Rows on which the two erasers are compared."""


def data(n: int = N, d: int = D) -> tuple[Any, torch.Tensor]:
    """Draw n × d features of which a hundredth is not 0, and a binary label that shifts twenty columns."""
    rng = np.random.default_rng(0)
    x = sparse.random_array((n, d), density=DENSITY, format="csr", dtype=np.float32, rng=rng)
    z = rng.integers(0, 2, n)
    informative = sparse.random_array((n, d), density=DENSITY, format="csr", dtype=np.float32, rng=rng)
    columns = sparse.diags_array((np.arange(d) < 20).astype(np.float32))
    return x + sparse.diags_array(z.astype(np.float32)) @ informative @ columns, torch.from_numpy(z)


def _measure(is_sparse: bool, n: int, d: int, send: Any) -> None:
    """Send the seconds of a fit and its eraser, the peak bytes with the data, and what is left of some rows."""
    warnings.simplefilter("ignore")
    x, z = data(n, d)
    sample = torch.from_numpy(x[:SAMPLE].toarray())
    _ = LeaceFitter.fit(x[:500, :50], z[:500], rtol=1e-4).eraser  # loads the kernels
    features: Any = x if is_sparse else torch.from_numpy(x.toarray())
    peak = PeakMemory("cpu")
    start = time.perf_counter()
    eraser = LeaceFitter.fit(features, z, shrinkage="correlation", rtol=1e-4).eraser
    seconds = time.perf_counter() - start
    send.send((seconds, peak.bytes(), eraser(sample).numpy()))


def measured(is_sparse: bool, n: int, d: int) -> tuple[float, int, np.ndarray]:
    """Run `_measure` in a process of its own, so that the other path's memory does not count."""
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_measure, args=(is_sparse, n, d, send))
    process.start()
    result: tuple[float, int, np.ndarray] = receive.recv()
    process.join()
    return result


def rows(n: int = N, d: int = D) -> Iterator[Row]:
    """Time the fit of both, and compare what they erase."""
    ours, our_peak, our_rows = measured(True, n, d)
    theirs, their_peak, their_rows = measured(False, n, d)
    note = (
        f"peak with the data {our_peak / 1e9:.2f} GB against {their_peak / 1e9:.2f}; erased rows differ by "
        f"{np.abs(our_rows - their_rows).max():.0e}"
    )
    what = f"LEACE, {n:,} x {d:,} of density {DENSITY:.0%}: fit"
    yield Row(what, ours, theirs, "the same matrix, dense", note, peak_bytes=our_peak)
