"""What n, d and k cost: seconds of one core and peak memory, each measured in a process of its own.

docs/scale.md has them as a table, with where it ends. Seconds are those of the processor, on one thread, so that
another job on the machine changes little.
"""

import gc
import multiprocessing
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection

import torch

from benchmarks.scale import BY_LABEL, CASES, Size, label
from benchmarks.timing import Row
from efface.runs.provenance import PeakMemory


def rows() -> Iterator[Row]:
    """Measure every case at each of its sizes."""
    for case in CASES:
        for size in case.sizes:
            name = label(case, size)
            seconds, peak = measured(name)
            yield Row(name, seconds, None, "–", f"peak {peak / 1e9:.2f} GB beyond the data", peak_bytes=peak)


def measured(name: str) -> tuple[float, int]:
    """Measure one label of `BY_LABEL`: seconds of the processor, and peak bytes beyond what was there before."""
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_measure, args=(name, send))
    process.start()
    send.close()  # so that a child that dies ends the wait
    seconds, peak = receive.recv()
    process.join()
    return seconds, peak


def _measure(name: str, send: "Connection[tuple[float, int], object]") -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    case, size = BY_LABEL[name]
    case.prepare(Size(min(size.n, 1000), min(size.d, 16), min(size.k, 5)))()  # loads what it needs
    call = case.prepare(size)
    gc.collect()
    memory = PeakMemory("cpu")
    before = memory.bytes()
    start = time.process_time()
    call()
    send.send((time.process_time() - start, memory.bytes() - before))
