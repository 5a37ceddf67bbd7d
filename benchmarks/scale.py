"""What `bench_scale` measures, how its costs grow, and the table of docs/scale.md that follows from that."""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from benchmarks.timing import Row
from efface.erasure.inlp import InlpEraser
from efface.erasure.leace import LeaceFitter
from efface.erasure.oracle import OracleFitter
from efface.erasure.projections import MeanProjectionEraser, PcaEraser, RandomProjectionEraser
from efface.erasure.quadratic import QuadraticFitter
from efface.erasure.rlace import RlaceEraser
from efface.evaluation.probes import linear_probe, mlp_probe
from efface.unlearning.bias import CounterfactualBias
from efface.unlearning.certified.removal import CertifiedLogisticRegression
from efface.unlearning.head import Head
from efface.unlearning.objective import TrainingObjective

MEMORY, SECONDS = 64e9, 24 * 3600.0
"""Where a table says that it ends: bytes, and seconds of one core."""
BATCH, TAGS = 8192, 17
_POWER = re.compile(r"([ndk])(|²|³|\^[\d.]+)")
_MARKED = re.compile(r"(<!-- scale -->\n).*?(<!-- /scale -->)", re.DOTALL)


class Size(NamedTuple):
    """Samples (tokens of a language model), width of a feature, values of the attribute or classes of the head."""

    n: int
    d: int
    k: int

    def __str__(self) -> str:
        return f"n = {self.n:,}, d = {self.d:,}, k = {self.k:,}"


Prepare = Callable[[Size], Callable[[], object]]
"""Makes the data, and returns what is to be measured."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One computation, measured at some sizes."""

    name: str
    prepare: Prepare
    sizes: tuple[Size, ...]
    """The last one is extrapolated from."""
    time: str
    """A formula of what time grows as; see `formula_value`."""
    memory: str
    """A formula of the bytes beyond the data, at the most."""
    streams: bool = False
    """Takes its data in batches; otherwise they are in memory as a whole, in float32."""
    reference: Size
    """Where `along` is varied."""
    along: str = "d"

    def cost(self, size: Size) -> float:
        """Return the value of `time`: seconds up to a factor."""
        return formula_value(self.time, size)

    def bytes(self, size: Size) -> float:
        """Return the value of `memory`, with the data where they are in memory as a whole."""
        return formula_value(self.memory, size) + (0 if self.streams else 4 * size.n * size.d)

    def end(self, seconds: float) -> tuple[int, str]:
        """Return the largest value of `along` within the limits, and which of them ends it.

        Args:
            seconds: measured at the last size.
        """
        rate = seconds / self.cost(self.sizes[-1])
        reach = 1.0
        while True:
            size = self.reference._replace(**{self.along: int(reach * 1.02)})
            if self.bytes(size) > MEMORY:
                return int(reach), "memory"
            if rate * self.cost(size) > SECONDS:
                return int(reach), "time"
            reach *= 1.02


def formula_value(formula: str, size: Size) -> float:
    """Return the value of a sum of products of numbers and powers of n, d and k, such as `24 n d + 40 d² + 1e8`."""
    return math.fsum(math.prod(_factor(text, size) for text in term.split()) for term in formula.split(" + "))


def _factor(text: str, size: Size) -> float:
    symbol = _POWER.fullmatch(text)
    if symbol is None:
        return float(text)
    exponent = {"": 1.0, "²": 2.0, "³": 3.0}.get(symbol[2]) or float(symbol[2].removeprefix("^"))
    base: float = getattr(size, symbol[1])
    return math.pow(base, exponent)


def labelled(size: Size) -> tuple[Tensor, Tensor]:
    """Draw float32 features with a spectrum that falls like a power, shifted by class; and their classes."""
    n, d, k = size
    g = torch.Generator().manual_seed(0)
    z = torch.randint(k, (n,), generator=g)
    z[:k] = torch.arange(k)[:n]
    x = torch.randn(n, d, generator=g)
    x *= torch.arange(1, d + 1) ** -0.3
    means = torch.randn(min(k, 1000), d, generator=g) * 0.3
    return x.add_(means[z % len(means)]), z


def _streamed(fitter: Any, size: Size) -> Callable[[], Any]:
    x, z = labelled(size)

    def update() -> Any:
        for rows in torch.arange(len(x)).split(BATCH):
            fitter.update(x[rows], z[rows])
        return fitter

    return update


def _leace_eraser(size: Size) -> Callable[[], object]:
    fitter = _streamed(LeaceFitter(size.d, size.k, shrinkage="correlation"), size)()
    return lambda: fitter.eraser


def _whole(fitter: Any, size: Size) -> Callable[[], object]:
    update = _streamed(fitter, size)
    return lambda: update().eraser


def _fitted(fit: Callable[..., object], size: Size) -> Callable[[], object]:
    x, z = labelled(size)
    return lambda: fit(x, z)


def _fmd(size: Size) -> Callable[[], object]:
    x, y = labelled(size)
    pairs = min(1000, size.n)
    objective = TrainingObjective(x=x, y=y, l2=1e-3)
    bias = CounterfactualBias(x[:pairs], x[:pairs].roll(1, 1), y[:pairs])

    def converge_and_blame() -> object:
        head = Head(n_classes=size.k)
        start = torch.zeros(size.k, size.d + 1, dtype=torch.float64)
        theta = head.minimise(objective, start, max_iter=100).theta
        return head.influence(objective, theta, bias, head.inverse(objective, theta, "auto", 0))

    return converge_and_blame


def _certified(size: Size) -> Callable[[], object]:
    x, y = labelled(size)
    loss = "softmax" if size.k > 2 else "logistic"

    def train_remove_release() -> object:
        model = CertifiedLogisticRegression(1e-3, 1.0, 1e-5, loss=loss).fit(x, y, n_classes=size.k)  # type: ignore[arg-type]
        model.remove(torch.arange(100))
        return model.release()

    return train_remove_release


def _probe(probe: Callable[..., object], size: Size) -> Callable[[], object]:
    x, a = labelled(size)
    x = (x - x.mean(0)) / x.std(0)
    return lambda: probe(x, a, a, size.k)


def _scrubbing(size: Size, *, blocks: int, evaluate: bool) -> Callable[[], object]:
    from benchmarks.scale_lm import evaluated, language_model, scrubbed

    lm, data = language_model(size.n, size.d, size.k, blocks)
    if not evaluate:
        return lambda: scrubbed(lm, data, size.k)
    scrubber = scrubbed(lm, data, size.k)
    return lambda: evaluated(lm, scrubber, data, size.k)


def _sizes(*sizes: tuple[int, int, int]) -> tuple[Size, ...]:
    return tuple(Size(*size) for size in sizes)


MILLION = Size(1_000_000, 1024, 2)
CASES: tuple[Case, ...] = (
    Case(
        name="LEACE, SAL: statistics",
        prepare=lambda size: _streamed(LeaceFitter(size.d, size.k, shrinkage="correlation"), size),
        sizes=_sizes((20_000, 512, 2), (20_000, 512, 1000), (20_000, 2048, 2)),
        time="n d²",
        memory="24 d² + 16 d k + 40000 d",
        streams=True,
        reference=MILLION,
    ),
    Case(
        name="LEACE, SAL: eraser from statistics",
        prepare=_leace_eraser,
        sizes=_sizes((5_000, 512, 2), (5_000, 512, 500), (5_000, 2048, 2)),
        time="d³",
        memory="40 d² + 24 d k",
        streams=True,
        reference=MILLION,
    ),
    Case(
        name="oracle LEACE",
        prepare=lambda size: _whole(OracleFitter(size.d, size.k, rtol=1e-4), size),
        sizes=_sizes((200_000, 256, 10), (200_000, 256, 100_000)),
        time="n d + 20 d k",
        memory="32 d k + 40000 d",
        streams=True,
        reference=Size(1_000_000, 1024, 10),
        along="k",
    ),
    Case(
        name="QLEACE",
        prepare=lambda size: _whole(QuadraticFitter(size.d, size.k), size),
        sizes=_sizes((20_000, 128, 10), (20_000, 512, 10)),
        time="n d² + 100 k d³",
        memory="140 k d²",
        streams=True,
        reference=Size(1_000_000, 1024, 10),
    ),
    Case(
        name="R-LACE, binary or full rank (closed form)",
        prepare=lambda size: _fitted(functools.partial(RlaceEraser.fit, rank=size.k - 1), size),
        sizes=_sizes((20_000, 512, 2), (20_000, 2048, 2)),
        time="n d² + 10 d³",
        memory="36 n d + 40 d²",
        reference=MILLION,
    ),
    Case(
        name="R-LACE, rank 3 of 9 (game)",
        prepare=lambda size: _fitted(functools.partial(RlaceEraser.fit, rank=3), size),
        sizes=_sizes((3_000, 64, 10), (3_000, 128, 10)),
        time="n d² k",
        memory="60 n d + 160 d² k²",
        reference=Size(10_000, 100, 10),
    ),
    Case(
        name="INLP, 5 predictors",
        prepare=lambda size: _fitted(functools.partial(InlpEraser.fit, iterations=5), size),
        sizes=_sizes((20_000, 256, 2), (20_000, 256, 10), (20_000, 1024, 2)),
        time="n d^1.3 k^0.5",
        memory="42 n d + 48 n k",
        reference=Size(1_000_000, 1024, 10),
    ),
    Case(
        name="mean projection",
        prepare=lambda size: _fitted(functools.partial(MeanProjectionEraser.fit, rank=size.k - 1), size),
        sizes=_sizes((20_000, 1024, 2), (20_000, 4096, 10)),
        time="n d",
        memory="8 n d",
        reference=Size(1_000_000, 1024, 10),
    ),
    Case(
        name="PCA",
        prepare=lambda size: _fitted(functools.partial(PcaEraser.fit, rank=1), size),
        sizes=_sizes((20_000, 512, 2), (20_000, 2048, 2)),
        time="3 n d² + 10 d³",
        memory="8 n d + 40 d²",
        reference=MILLION,
    ),
    Case(
        name="random projection",
        prepare=lambda size: _fitted(functools.partial(RandomProjectionEraser.fit, rank=size.k - 1), size),
        sizes=_sizes((20_000, 1024, 2), (20_000, 4096, 10)),
        time="n d",
        memory="8 d k + 2000 d",
        reference=Size(1_000_000, 1024, 10),
    ),
    Case(
        name="FMD head: converge, influence of all samples",
        prepare=_fmd,
        sizes=_sizes((20_000, 512, 2), (20_000, 512, 9), (5_000, 512, 100), (5_000, 512, 1000)),
        time="n d k",
        memory="24 n d + 64 n k + 8e8",
        reference=Size(100_000, 512, 10),
        along="k",
    ),
    Case(
        name="certified removal: train, remove 100, release",
        prepare=_certified,
        sizes=_sizes((20_000, 256, 2), (20_000, 256, 10), (20_000, 1024, 2)),
        time="n d^1.5 k^0.75",
        memory="20 n d + 24 n k + 24 d²",
        reference=MILLION,
    ),
    Case(
        name="linear probe",
        prepare=functools.partial(_probe, linear_probe),
        sizes=_sizes((20_000, 256, 2), (20_000, 256, 100), (20_000, 1024, 2)),
        time="n d^1.6 k^0.5",
        memory="28 n d + 32 n k",
        reference=Size(100_000, 1024, 10),
        along="n",
    ),
    Case(
        name="probe by a network",
        prepare=functools.partial(_probe, mlp_probe),
        sizes=_sizes((20_000, 256, 2), (20_000, 1024, 2)),
        time="n d",
        memory="8 n d",
        reference=Size(100_000, 1024, 2),
        along="n",
    ),
    *(
        Case(
            name=f"scrubbing, {blocks} blocks: {'evaluation' if evaluate else 'erasers'}",
            prepare=functools.partial(_scrubbing, blocks=blocks, evaluate=evaluate),
            sizes=_sizes((16_384, 128, TAGS), (16_384, 256, TAGS)),
            time=f"{blocks} n d²" + (" + 20000 d k" if evaluate else ""),
            memory="1.1e10" if evaluate else "8 n d + 40 d² + 1e8",
            streams=True,
            reference=Size(1_000_000, 1024, TAGS),
            along="n",
        )
        for blocks, evaluate in ((4, False), (8, False), (4, True))
    ),
)


def label(case: Case, size: Size) -> str:
    """Return what a row of the results calls a measurement."""
    return f"{case.name}: {size}"


def table(rows: Sequence[Row]) -> str:
    """Return the table of docs/scale.md as markdown; a case that was not measured at all its sizes is left out."""
    measured = {row.what: row for row in rows}
    lines = [
        _line(case, [measured[label(case, size)] for size in case.sizes])
        for case in CASES
        if all(label(case, size) in measured for size in case.sizes)
    ]
    return str(pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True, stralign="left"))


def _line(case: Case, rows: Sequence[Row]) -> dict[str, str]:
    """Return a case's line of the table, from its results size by size."""
    end, reason = case.end(rows[-1].ours)
    fixed = [f"{name} = {number:,}" for name, number in case.reference._asdict().items() if name != case.along]
    return {
        "what": case.name,
        "time grows as": case.time,
        "bytes, at most about": case.memory,
        "measured: seconds of one core, peak": "<br>".join(
            f"{size}: {row.ours:.3g} s, {(row.peak_bytes or 0) / 1e9:.2f} GB"
            for size, row in zip(case.sizes, rows, strict=True)
        ),
        "ends at": f"{case.along} ≈ {_rounded(end)} ({reason}), where {', '.join(fixed)}",
    }


def with_table(text: str, rows: Sequence[Row]) -> str:
    """Return a page with the table between its markers."""
    return _MARKED.sub(lambda match: f"{match[1]}\n{table(rows)}\n\n{match[2]}", text)


def _rounded(number: int) -> str:
    """Return a whole number to two digits."""
    return f"{round(number, 2 - len(str(number))):,}"


BY_LABEL: Mapping[str, tuple[Case, Size]] = {label(case, size): (case, size) for case in CASES for size in case.sizes}
