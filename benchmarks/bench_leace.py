"""LEACE beside `concept_erasure` 0.2.4, float32, correlated Gaussian features, k = 10: time, precision, memory."""

import multiprocessing
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Row
from efface.erasure.leace import LeaceFitter
from efface.runs.provenance import PeakMemory

N, K = 20_000, 10
WIDTHS = (256, 768, 2048, 4096)
PACKAGES = ("efface", "concept_erasure")


def data(d: int) -> tuple[Tensor, Tensor]:
    """Draw n × d features with eigenvalues over three decades, shifted by class; one-hot labels."""
    g = torch.Generator().manual_seed(d)
    z = torch.nn.functional.one_hot(torch.randint(K, (N,), generator=g), K).float()
    mix = torch.linalg.qr(torch.randn(d, d, generator=g))[0] * torch.logspace(0, -1.5, d)
    x = torch.randn(N, d, generator=g) @ mix.mT
    return x + z @ (torch.randn(K, d, generator=g) @ mix.mT), z


def fitter_class(name: str) -> Any:
    """Return `LeaceFitter` of one of the packages."""
    if name == "efface":
        return LeaceFitter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import concept_erasure

    return concept_erasure.LeaceFitter


def timings(d: int, shrinkage: bool) -> dict[str, dict[str, Any]]:
    """Return median seconds of statistics and of eraser, and the eraser itself, the packages and one `x.T @ x` in turn.

    In turn, so that a slow minute of the machine hits all of them.
    """
    x, z = data(d)
    fits = {name: fitter_class(name).fit for name in PACKAGES}
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in (*PACKAGES, "product")}
    erasers: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what svd_tol leaves in place, which is the same for both
        for fit in fits.values():
            _ = fit(x[:500], z[:500]).eraser  # loads the kernels
        for _ in range(7 if d < 2000 else 5 if d < 4000 else 3):
            for name, fit in fits.items():
                start = time.perf_counter()
                fitter = fit(x, z, shrinkage=shrinkage)
                middle = time.perf_counter()
                erasers[name] = fitter.eraser
                times[name].append((middle - start, time.perf_counter() - middle, time.perf_counter() - start))
            start = time.perf_counter()
            _ = x.mT @ x
            times["product"].append((time.perf_counter() - start,))
    medians = {name: [statistics.median(column) for column in zip(*of, strict=True)] for name, of in times.items()}
    results = {name: dict(zip(("statistics", "eraser", "fit"), medians[name], strict=True)) for name in PACKAGES}
    return {
        name: {
            **results[name],
            "left": erasers[name].proj_left,
            "right": erasers[name].proj_right,
            "memory": memory(name, d, shrinkage),
            "product": medians["product"][0],
        }
        for name in PACKAGES
    }


def memory(name: str, d: int, shrinkage: bool) -> int:
    """Measure the peak bytes of a fit and its eraser beyond the data, in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_send_peak, args=(name, d, shrinkage, send))
    process.start()
    peak: int = receive.recv()
    process.join()
    return peak


def _send_peak(name: str, d: int, shrinkage: bool, send: Any) -> None:
    x, z = data(d)
    fit = fitter_class(name).fit
    warnings.simplefilter("ignore")
    _ = fit(x[:500], z[:500]).eraser
    peak = PeakMemory("cpu")
    resident = peak.bytes()
    _ = fit(x, z, shrinkage=shrinkage).eraser
    send.send(peak.bytes() - resident)


def precision(d: int, shrinkage: bool, results: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Say the covariance left with the concept, the distance of P from float64's, and the edit over the optimal one."""
    x, z = (t.double() for t in data(d))
    xc, zc = x - x.mean(0), z - z.mean(0)
    exact = LeaceFitter.fit(x, z, shrinkage=shrinkage, rtol=1e-10).eraser
    removed = exact.proj_left @ exact.proj_right
    best = (xc @ removed.mT).square().sum()
    accuracy = {}
    for name, result in results.items():
        left, right = result["left"].double(), result["right"].double()
        erased = (x.float() - ((xc.float() @ right.float().mT) @ left.float().mT)).double()
        cov = ((erased - erased.mean(0)).mT @ zc / len(x)).abs().max()
        distance = torch.linalg.matrix_norm(left @ right - removed) / torch.linalg.matrix_norm(removed)
        edit = ((xc @ right.mT) @ left.mT).square().sum() / best
        accuracy[name] = f"covariance left {cov:.0e}, P off by {distance:.0e}, edit {edit - 1:+.0e} of optimum"
    return accuracy


def rows() -> Iterator[Row]:
    """Time statistics, eraser and both, by width."""
    for d in WIDTHS:
        for shrinkage in (True, False):
            results = timings(d, shrinkage)
            ours, theirs = results["efface"], results["concept_erasure"]
            accuracy = precision(d, shrinkage, results)
            what = label(d, shrinkage=shrinkage)
            memory = f"peak {ours['memory'] / 1e9:.2f} GB against {theirs['memory'] / 1e9:.2f}"
            note = f"ours: {accuracy['efface']}; theirs: {accuracy['concept_erasure']}; {memory}"
            yield Row(f"{what}: fit", ours["fit"], theirs["fit"], "concept_erasure 0.2.4", note)
            yield Row(f"{what}: eraser alone", ours["eraser"], theirs["eraser"], "concept_erasure 0.2.4")
            if shrinkage:
                yield Row(f"{what}: statistics", ours["statistics"], ours["product"], "one x.T @ x")


def label(d: int, *, shrinkage: bool) -> str:
    """Return how rows of this width begin."""
    return f"LEACE, d = {d:,}, shrinkage {'on' if shrinkage else 'off'}"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the time of a fit with shrinkage against d, beside the other package and one product."""
    from matplotlib import pyplot as plt

    from efface.report.plots.style import COLOURS, GREY, plain_powers, styled

    by_name = {row.what: row for row in rows}
    fits = [by_name[f"{label(d, shrinkage=True)}: fit"] for d in WIDTHS]
    products = [by_name[f"{label(d, shrinkage=True)}: statistics"].theirs for d in WIDTHS]
    with styled():
        fig, ax = plt.subplots(figsize=(4.6, 3.1), layout="constrained")
        ax.loglog(WIDTHS, [row.ours for row in fits], "o-", color=COLOURS[0], label="efface")
        ax.loglog(WIDTHS, [row.theirs for row in fits], "s-", color=COLOURS[1], label=fits[0].other)
        ax.loglog(WIDTHS, products, ":", color=GREY, label="one x.T @ x")
        plain_powers(ax.yaxis)
        ax.set_xticks(WIDTHS, [f"{d:,}" for d in WIDTHS])
        ax.minorticks_off()
        ax.set(xlabel="features d", ylabel="seconds", title=f"LEACE fit, n = {N:,}, k = {K}, float32")
        ax.legend()
        fig.savefig(path, dpi=200, metadata={"Software": None})
        plt.close(fig)
