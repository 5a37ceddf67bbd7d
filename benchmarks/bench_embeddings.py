"""`python -m efface.embeddings` on 10 million rows of 768 half-precision columns, beside one pass of `x.T @ x`.

The shards, 15 GB for 10 million rows, are made in a temporary folder (of `TMPDIR`) and removed at the end; `--rows`
makes fewer. Each pass runs in a process of its own, and reads from the disk: what the system keeps of the files is
dropped before it. Seconds are those of the processor, on one thread, so that another job on the machine changes little.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.timing import Row
from efface.embeddings.__main__ import main as command
from efface.runs.provenance import PeakMemory

ROWS, D, SHARDS = 10_000_000, 768, 40
BATCH = 16_384


class Cost(NamedTuple):
    """Of one pass over the shards."""

    seconds: float
    """Of the processor."""
    wall: float
    peak: int
    """Resident bytes of the whole process, at most."""


def write_shards(folder: Path, rows: int) -> tuple[list[str], list[str]]:
    """Draw embeddings with unequal columns, of which a binary label shifts all; return the paths of x and of z.

    All batches have the same noise under other labels: drawing it anew would take longer than the passes.
    """
    g = torch.Generator().manual_seed(0)
    noise, shift = torch.randn(BATCH, D, generator=g) * torch.linspace(2, 0.5, D), torch.randn(D, generator=g) * 0.1
    paths = [(folder / f"x{i:02}.npy", folder / f"z{i:02}.npy") for i in range(SHARDS)]
    for i, (x_path, z_path) in enumerate(paths):
        n = (i + 1) * rows // SHARDS - i * rows // SHARDS
        z = torch.randint(2, (n,), generator=g)
        np.save(z_path, z.numpy())
        with x_path.open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": (n, D)}
            np.lib.format.write_array_header_1_0(file, header)
            for labels in z.split(BATCH):
                file.write(torch.addcmul(noise[: len(labels)], labels[:, None], shift).half().numpy().data)
    return [str(x) for x, _ in paths], [str(z) for _, z in paths]


def product(shards: Sequence[str]) -> None:
    """Read all shards batch by batch, and add up `x.T @ x` in float32."""
    total = torch.zeros(D, D)
    for path in shards:
        x = np.load(path, mmap_mode="r")
        for first in range(0, len(x), BATCH):
            batch = torch.from_numpy(x[first : first + BATCH].astype(np.float32))
            total.addmm_(batch.mT, batch)


def run_command(*arguments: str) -> None:
    """Run a command of `efface.embeddings`.

    Raises:
        RuntimeError: its exit status is not 0.
    """
    if command(list(arguments)):
        raise RuntimeError(f"python -m efface.embeddings {arguments[0]} failed")


def measured(call: Callable[[], object], files: Sequence[str]) -> Cost:
    """Measure a call in a process of its own, which finds none of the files in memory."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_measure, args=(call, send))
    process.start()
    send.close()  # so that a child that dies ends the wait
    cost: Cost = receive.recv()
    process.join()
    return cost


def _measure(call: Callable[[], object], send: "Connection[Cost, object]") -> None:
    torch.set_num_threads(1)
    torch.randn(256, 256).mm(torch.randn(256, 256))  # loads the kernels
    memory = PeakMemory("cpu")
    wall, seconds = time.perf_counter(), time.process_time()
    call()
    send.send(Cost(time.process_time() - seconds, time.perf_counter() - wall, memory.bytes()))


def rows(n: int = ROWS) -> Iterator[Row]:
    """Fit on all shards, and apply and certify the eraser on one of them."""
    with tempfile.TemporaryDirectory(prefix="efface-embeddings-") as name:
        folder = Path(name)
        x, z = write_shards(folder, n)
        eraser = str(folder / "eraser.safetensors")
        one = measured(partial(product, x), x)
        fit = measured(partial(run_command, "fit", *x, "--labels", *z, "--out", eraser), x)
        yield Row(
            f"fit, {n:,} rows of {D} float16 columns in {SHARDS} shards",
            fit.seconds,
            one.seconds,
            "one pass of x.T @ x",
            f"{_words(fit, n)}; beside it {_words(one, n)}",
            peak_bytes=fit.peak,
        )
        x, z, part = x[:1], z[:1], n // SHARDS
        for what, arguments in (
            ("apply", ("--out", str(folder / "erased"))),
            ("certify", ("--labels", *z, "--tolerance", "1")),  # on a part, where something remains by chance
        ):
            cost = measured(partial(run_command, what, eraser, *x, *arguments), x)
            yield Row(f"{what}, {part:,} of them", cost.seconds, None, "–", _words(cost, part), peak_bytes=cost.peak)


def _words(cost: Cost, n: int) -> str:
    return (
        f"{n / cost.seconds:,.0f} rows a second of the processor ({n / cost.wall:,.0f} by the clock), peak "
        f"{cost.peak / 1e9:.2f} GB resident"
    )
