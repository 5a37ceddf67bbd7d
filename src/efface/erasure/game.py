"""The game of R-LACE on one data set, and the ascent that plays it; see `efface.erasure.rlace`."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from efface.erasure.affine import AffineEraser
from efface.erasure.whitening import column_scale, range_basis
from efface.moments import Moments
from efface.products import SparseRows
from efface.softmax import SoftmaxFit, SoftmaxObjective, fit_softmax, minimise

_MEMORY = 15
_CONTINUATION = (1000.0, 100.0, 10.0)
_CONTINUATION_TOL = 1e-2
_RESTART_TOL = 3e-2
"""An ascent from a restart goes to this gradient first, and on only if that end is near the best, `_NEAR` nats."""
_NEAR = 5e-3
_SAME = 1e-3
"""In nats: ends whose values differ by less count as one."""
_INNER_TOL = 1e-8
"""Gradient at which the inner problem counts as solved. Left unsolved, the outer gradient can be ten times off."""


@dataclass(frozen=True)
class Point:
    """Removed directions in whitened coordinates, `[r, k]`, orthonormal, with the inner problem solved there."""

    directions: Tensor
    value: float
    inner: SoftmaxFit | None = None
    ascent: Tensor | None = None
    """The Riemannian gradient, `[r, k]`."""
    iterations: int = 0

    @property
    def warm(self) -> Tensor | None:
        """Parameters from which the inner problem of a point nearby may start."""
        return None if self.inner is None else self.inner.theta

    @property
    def stationarity(self) -> float:
        """Norm of the outer gradient."""
        return 0.0 if self.ascent is None else float(self.ascent.norm())


@dataclass(frozen=True)
class Ascent:
    """The best end of the ascents from several starts."""

    best: Point
    starts: int
    at_best: int
    """How many of the starts ended within 1e-3 nats of the best value."""
    iterations: int
    """Steps of all ascents."""


class Game:
    """The game on one data set, in coordinates in which x is white, in float64.

    A predictor M P x with P the projection off U is any predictor A x with A U = 0. In white coordinates, x − μ = B w
    and A B = Ã, that is Ã Ũ = 0 with B Ũ spanning U: the same game, well conditioned.
    """

    def __init__(self, x: Tensor | SparseRows, z: Tensor, y: Tensor | None, weight: Tensor | None, l2: float) -> None:
        # In float64 whatever the data, so that directions of little variance stand out from rounding: a direction that
        # is mistaken for rounding below is not erased, and a probe still reads it.
        moments = Moments(x.shape[1], z.shape[1], device=x.device, dtype=torch.float64)
        moments.update(x, z, weight)
        self.mean, self.sigma = moments.mean_x, moments.cov_xx(unbiased=False)
        self.y, self.weight, self.l2 = y, weight, l2
        eps = torch.finfo(x.dtype).eps
        scale = column_scale(self.sigma)
        values, vectors = torch.linalg.eigh(self.sigma / scale / scale.mT)
        # Drop directions below the rounding of the data (eps² in variance) or of the decomposition.
        in_range = values > len(values) * max(eps**2, torch.finfo(values.dtype).eps) * values[-1]
        roots, vectors = values[in_range].sqrt(), vectors[:, in_range]
        self.whiten = vectors / roots / scale
        """`[d, r]`: w = (x − μ) whiten."""
        self.unwhiten = scale * vectors * roots
        """`[d, r]`, B: x − μ = B w."""
        if isinstance(x, SparseRows):
            self.x = x @ self.whiten - self.mean @ self.whiten
        else:
            self.x = (x.double() - self.mean) @ self.whiten
        cov_zz = moments.cov_zz(unbiased=False)
        basis = range_basis(cov_zz, eps)
        if basis.shape[1] == 0:
            raise ValueError("z is constant (a single class): there is nothing to erase")
        values, vectors = torch.linalg.eigh(basis.mT @ cov_zz @ basis)
        self.C = self.whiten.mT @ moments.cov_xz(unbiased=False) @ (basis @ (vectors / values.sqrt()))
        """Cov(w, z) with z white too, `[r, m]`: its singular values are the canonical correlations."""
        vectors, correlations, _ = torch.linalg.svd(self.C, full_matrices=False)
        self.full = vectors[:, correlations > 1e3 * eps]
        """`[r, rank Cov(x, z)]`; its first k columns are the optimum of rank k under squared loss."""

    def evaluate(self, directions: Tensor, warm: Tensor | None = None, tol: float = _INNER_TOL) -> Point:
        """Solve the inner problem with `directions` removed, from the predictor `warm` if there is one."""
        U = directions
        if self.y is None:
            remaining = self.C - U @ (U.mT @ self.C)
            return Point(U, self.C.shape[1] - float(remaining.square().sum()))
        x = self.x - (self.x @ U) @ U.mT
        objective = SoftmaxObjective(x, self.y, weight=self.weight, l2=self.l2)
        fit = minimise(objective, init=warm, tol=tol)
        value = fit.loss + self.l2 / 2 * float(fit.weight.square().sum())
        residual = fit.logits(x).softmax(1) * objective.weight[:, None]
        residual[torch.arange(len(x), device=x.device), self.y] -= objective.weight
        ascent = -fit.weight.mT @ (residual.mT @ (self.x @ U))
        return Point(U, value, fit, ascent - U @ (U.mT @ ascent))

    def ascend(
        self,
        rank: int,
        init: AffineEraser | None,
        *,
        tol: float,
        max_iter: int,
        restarts: int,
        seed: int,
        progress: bool,
    ) -> "Ascent":
        """Ascend from `squared`, from the end of a continuation in λ, from `init` and from restarts; keep the best end.

        As λ grows the game becomes that of squared loss, whose optimum is known. With λ lowered step by step from there
        the ascent usually avoids poor stationary points. Where the concept is separable it may not, and the ascent that
        starts at `squared` may end higher. So both are tried. Restarts are by turns wholly random and the best end so
        far with one direction exchanged: the former find other regions, the latter the best end of one.
        """
        with tqdm(desc=f"rlace, rank {rank}", disable=not progress, leave=False) as bar:
            squared = self.full[:, :rank]
            continued, steps = self._continued(squared, tol, max_iter, bar)
            starts = [continued, squared] if init is None else [continued, squared, self.extend(init, rank)]
            ends = [self.climb(self.evaluate(start), tol, max_iter, bar) for start in starts]
            best = max(ends, key=lambda end: end.value)
            generator = torch.Generator().manual_seed(seed)
            # From the rank of the concept up, `squared` is the optimum.
            for i in range(restarts if rank < self.full.shape[1] else 0):
                start = self.exchanged(best.directions, generator) if i % 2 else self.random(rank, generator)
                end = self.climb(self.evaluate(start, best.warm), max(tol, _RESTART_TOL), max_iter // 4, bar)
                if end.stationarity > tol and end.value > best.value - _NEAR:
                    steps += end.iterations
                    end = self.climb(end, tol, max_iter, bar)
                ends.append(replace(self.evaluate(end.directions, end.warm), iterations=end.iterations))
                solved = ends[-1].inner is not None and ends[-1].inner.converged
                if solved and ends[-1].stationarity <= tol and ends[-1].value > best.value:
                    best = ends[-1]
        at_best = sum(abs(end.value - best.value) < _SAME for end in ends)
        steps += sum(end.iterations for end in ends)
        return Ascent(self.evaluate(best.directions, best.warm), len(ends), at_best, steps)

    def _continued(self, directions: Tensor, tol: float, max_iter: int, bar: Any) -> tuple[Tensor, int]:
        """Follow the optimum of a large λ, `directions`, to a small one; return the end and the steps taken."""
        steps = 0
        for factor in _CONTINUATION:
            eased = copy.copy(self)
            eased.l2 = factor * self.l2
            point = eased.climb(eased.evaluate(directions), max(tol, _CONTINUATION_TOL), max_iter // 4, bar)
            directions, steps = point.directions, steps + point.iterations
        return directions, steps

    def random(self, rank: int, generator: torch.Generator) -> Tensor:
        """Draw directions `[r, rank]`, uniformly."""
        numbers = torch.randn(len(self.full), rank, generator=generator, dtype=torch.float64).to(self.full)
        start: Tensor = torch.linalg.qr(numbers)[0]
        return start

    def exchanged(self, directions: Tensor, generator: torch.Generator) -> Tensor:
        """Exchange a random one of `directions` `[r, k]` for a random one of the span of Cov(x, z)."""
        k, m = directions.shape[1], self.full.shape[1]
        numbers = torch.randn(k, k + m, generator=generator, dtype=torch.float64).to(directions)
        rotation = torch.linalg.qr(numbers[:, :k])[0]
        direction = self.full @ numbers[0, k:, None]
        start: Tensor = torch.linalg.qr(torch.cat([(directions @ rotation)[:, 1:], direction], 1))[0]
        return start

    def climb(self, point: Point, tol: float, max_iter: int, bar: Any) -> Point:
        """Ascend from `point` by Riemannian L-BFGS with backtracking."""
        memory: list[tuple[Tensor, Tensor]] = []
        for iteration in range(max_iter):
            if point.stationarity <= tol or point.ascent is None:
                break
            new = self._step(point, quasi_newton(point.ascent, memory))
            if new is None:  # misleading curvature, or an overestimated value: start both anew
                exact = self.evaluate(point.directions, point.warm, _INNER_TOL)
                memory, point = [], replace(exact, iterations=iteration)
                new = self._step(point, _ascent(point))
            if new is None:  # any further rise is below the tolerance of the inner problem
                break
            U = new.directions
            latest = (U - point.directions, _ascent(point) - _ascent(new))
            # Steps are carried along by projection to the tangent space of the new point.
            memory = [(s - U @ (U.mT @ s), y - U @ (U.mT @ y)) for s, y in [*memory[-_MEMORY:], latest]]
            memory = [(s, y) for s, y in memory if float((s * y).sum()) > 1e-10 * float((s * s).sum())]
            point = replace(new, iterations=iteration + 1)
            bar.update()
            bar.set_postfix(value=f"{point.value:.6f}", gradient=f"{point.stationarity:.1e}")
        return point

    def _step(self, point: Point, direction: Tensor) -> Point | None:
        """Backtrack from a step of at most a radian to the first that raises the value enough (Armijo)."""
        slope = float((direction * _ascent(point)).sum())
        step = min(1.0, 1.0 / float(direction.norm()))
        tol = min(max(1e-4 * point.stationarity, _INNER_TOL), 1e-5)  # an error far below the gradient does not matter
        while step * slope > 1e-12 * abs(point.value):
            new = self.evaluate(_retract(point.directions + step * direction), point.warm, tol)
            if new.value >= point.value + 1e-4 * step * slope:
                return new
            step /= 3
        return None

    def extend(self, init: AffineEraser, rank: int) -> Tensor:
        """Complete the directions of an eraser to `rank` by the best squared ones that it does not remove."""
        if init.proj_left.shape[0] != len(self.sigma) or init.rank > rank:
            raise ValueError(
                f"init removes {init.rank} of {init.proj_left.shape[0]} directions, but must remove at most {rank} of "
                f"{len(self.sigma)}"
            )
        U = self.whitened(init.proj_left)
        others = torch.linalg.svd(self.C - U @ (U.mT @ self.C), full_matrices=False)[0][:, : rank - U.shape[1]]
        extended: Tensor = torch.linalg.qr(torch.cat([U, others], 1))[0]
        return extended

    def whitened(self, directions: Tensor) -> Tensor:
        """Write directions of x `[d, k]` in white coordinates."""
        white: Tensor = torch.linalg.qr(self.whiten.mT @ directions.to(self.x))[0]
        return white

    def in_x(self, directions: Tensor, rank: int) -> Tensor:
        """Write white directions as orthonormal ones of x, completed to `rank` by those of least variance."""
        U: Tensor = torch.linalg.qr(self.unwhiten @ directions)[0]
        if U.shape[1] < rank:
            # Give the directions that are in U already the largest eigenvalue, and take the smallest eigenvectors.
            P = torch.eye(len(U)).to(U) - U @ U.mT
            lifted = P @ self.sigma @ P + (2 * self.sigma.trace() + 1) * U @ U.mT
            U = torch.linalg.qr(torch.cat([U, torch.linalg.eigh(lifted)[1][:, : rank - U.shape[1]]], 1))[0]
        return U

    def constant_loss(self) -> float:
        """Return H(z), the loss of the best constant predictor."""
        if self.y is None:
            return float(self.C.shape[1])
        return fit_softmax(self.x[:, :0], self.y, weight=self.weight, tol=1e-12).loss


def _ascent(point: Point) -> Tensor:
    assert point.ascent is not None
    return point.ascent


def quasi_newton(ascent: Tensor, memory: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Compute the L-BFGS direction from steps and changes of gradient (Nocedal & Wright, algorithm 7.4)."""
    direction, alphas = ascent.clone(), []
    for s, y in reversed(memory):
        alpha = (s * direction).sum() / (s * y).sum()
        direction -= alpha * y
        alphas.append(alpha)
    if memory:
        s, y = memory[-1]
        direction *= (s * y).sum() / (y * y).sum()
    for (s, y), alpha in zip(memory, reversed(alphas), strict=True):
        direction += (alpha - (y * direction).sum() / (s * y).sum()) * s
    return direction


def _retract(directions: Tensor) -> Tensor:
    """Map a matrix to nearby orthonormal columns, by a QR decomposition with a positive diagonal."""
    Q, R = torch.linalg.qr(directions)
    columns: Tensor = Q * R.diagonal().sign()
    return columns
