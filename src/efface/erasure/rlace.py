"""R-LACE: linear adversarial concept erasure (Ravfogel et al., "Linear Adversarial Concept Erasure", ICML 2022).

An orthogonal projection P of given rank d − k plays against a linear predictor of the concept:

    max over P of f(P),   f(P) = min over (M, b) of  E[loss(M P x + b, z)] + λ/2 tr(M Cov(Px) Mᵀ),

with the intercept unpenalised. The penalty is on the variance of the logits, so that neither λ nor the game depends on
the units of x. The value is at most H(z), the loss of the best constant, so H(z) − f(P) bounds the gain of any better
projection. There are four ways to solve it:

* `closed_form`, k >= rank Cov(x, z): the best predictor has the loss of a constant if and only if all class means
  coincide, so the projection off span Cov(x, z) is optimal, f(P) = H(z). (Mean projection and SAL are the same map.)
* `squared`, any k: under squared loss, on z whitened, the span of C V_k is optimal, with C = Cov(x, z), Σ = LLᵀ and V_k
  the top right singular vectors of L⁻¹C: only the other canonical correlations remain.
* `game`, k < rank Cov(x, z), cross-entropy: Riemannian ascent over the k directions U that are removed. With the inner
  problem solved exactly, Danskin's theorem gives the gradient −Mᵀ G U, G = E[(p − z) xᵀ]. The value is not concave: the
  ascent ends at a stationary point, which is at least as good as `squared`, where it starts.
* `sgd`: the published algorithm, `solve_adv_game`, to compare with.
"""

import copy
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from efface.erasure.affine import AffineEraser
from efface.erasure.fitting import check_rank, concept_matrix, labels_of
from efface.erasure.whitening import column_scale, range_basis
from efface.moments import Moments, require_finite, working_dtype
from efface.softmax import SoftmaxFit, SoftmaxObjective, fit_softmax, minimise

RlaceSolver = Literal["auto", "closed_form", "squared", "game", "sgd"]

_MEMORY = 15
_CONTINUATION = (1000.0, 100.0, 10.0)
_INNER_TOL = 1e-8
"""Gradient at which the inner problem counts as solved. Left unsolved, the outer gradient can be ten times off."""


@dataclass(frozen=True)
class RlaceSolution:
    """How good a solution is. Losses are in nats, gradients in coordinates in which x is white."""

    solver: str
    value: float
    """f(P), the value of the game. Cross-entropy with its penalty if the concept is given as labels; else the squared
    loss on z whitened, without a penalty."""
    cross_entropy: float | None
    """E[loss] of the best predictor at the projection, without the penalty; None if the concept is not labels."""
    l2: float
    """λ"""
    grad_norm: float
    """Largest entry of the gradient of the inner problem at its last iterate."""
    stationarity: float
    """‖MᵀGU‖, the norm of the outer gradient; 0 under squared loss, where the optimum is known."""
    suboptimality_bound: float
    """H(z) − f(P), which no other projection can gain more than: 0 at full rank, and loose below it, where no tighter
    bound is known."""
    iterations: int
    seconds: float
    converged: bool
    """The inner problem is solved, and the point is optimal or stationary to `tol`. False for `sgd`."""


@dataclass(frozen=True)
class RlaceEraser(AffineEraser):
    """The orthogonal projection after which the best linear predictor of the concept has the highest loss; see
    `AffineEraser`.
    """

    solution: RlaceSolution | None = None
    """None after saving and loading."""

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        x: Tensor,
        z: Tensor,
        *,
        rank: int = 1,
        solver: RlaceSolver = "auto",
        weight: Tensor | None = None,
        affine: bool = True,
        l2: float = 1e-4,
        tol: float = 1e-3,
        max_iter: int = 300,
        init: AffineEraser | None = None,
        progress: bool = False,
        **sgd: Any,
    ) -> "RlaceEraser":
        """Fit on x `[n, d]` and a concept z: labels `[n]`, one-hot `[n, K]`, or for squared loss any `[n, k]`.

        Args:
            x: features.
            z: the concept.
            rank: k, how many directions to remove, 1 … d − 1. Beyond rank Cov(x, z) the rest are those of least
                variance.
            solver: see the module; `auto` takes the closed form where it is optimal, else `game`, or `squared` if the
                concept is not labels.
            weight: importance weights `[n]`.
            affine: keep the mean of x where it is; else the map is x ↦ P x.
            l2: λ. It bounds the predictor where the concept is separable. A smaller one is closer to the unpenalised
                game, and makes the inner problem harder.
            tol: tolerance of the outer gradient, in nats per radian.
            max_iter: steps of an ascent; there are two or three, from different starts.
            init: an eraser of the same or of lower rank from which the ascent may start, completed by the best squared
                directions that it does not remove. The value is then at least the value of `init`: erasers fitted in
                ascending rank, each from the last, are monotone.
            progress: show a progress bar of the ascent, or of the published algorithm.
            sgd: for `solver="sgd"`, arguments of `solve_adv_game`.

        Cost: O(nd² + d³) for the closed form; each step of the game is a warm-started softmax regression.

        Raises:
            ValueError: shapes do not fit, values are not finite, z is constant, rank is out of range, or the solver
                cannot serve this concept or this rank.
        """
        start = time.perf_counter()
        _check(x, z, rank, solver, l2, sgd)
        x = x.to(working_dtype(x.dtype) if x.is_floating_point() else torch.float32)
        game = _Game(x, concept_matrix(z).to(x.device), labels_of(z.to(x.device)), weight, l2)
        solver = _choose_solver(solver, game, rank)
        if solver == "sgd":
            point = _published(game, x, rank, {"progress": progress, "weight": weight, **sgd})
        elif solver == "game":
            point = game.ascend(rank, init, tol, max_iter, progress)
        else:
            point = game.evaluate(game.full[:, :rank])
        directions = game.in_x(point.directions, rank)
        eraser = cls.orthogonal(directions.to(x.dtype), game.mean.to(x.dtype) if affine else None)
        return replace(eraser, solution=_solution(game, point, solver, tol, time.perf_counter() - start))


@dataclass(frozen=True)
class _Point:
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


class _Game:
    """The game on one data set, in coordinates in which x is white, in float64.

    A predictor M P x with P the projection off U is any predictor A x with A U = 0. In white coordinates, x − μ = B w
    and A B = Ã, that is Ã Ũ = 0 with B Ũ spanning U: the same game, well conditioned.
    """

    def __init__(self, x: Tensor, z: Tensor, y: Tensor | None, weight: Tensor | None, l2: float) -> None:
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

    def evaluate(self, directions: Tensor, warm: Tensor | None = None, tol: float = _INNER_TOL) -> _Point:
        """Solve the inner problem with `directions` removed, from the predictor `warm` if there is one."""
        U = directions
        if self.y is None:
            remaining = self.C - U @ (U.mT @ self.C)
            return _Point(U, self.C.shape[1] - float(remaining.square().sum()))
        x = self.x - (self.x @ U) @ U.mT
        objective = SoftmaxObjective(x, self.y, weight=self.weight, l2=self.l2)
        fit = minimise(objective, init=warm, tol=tol)
        value = fit.loss + self.l2 / 2 * float(fit.weight.square().sum())
        residual = fit.logits(x).softmax(1) * objective.weight[:, None]
        residual[torch.arange(len(x), device=x.device), self.y] -= objective.weight
        ascent = -fit.weight.mT @ (residual.mT @ (self.x @ U))
        return _Point(U, value, fit, ascent - U @ (U.mT @ ascent))

    def ascend(self, rank: int, init: AffineEraser | None, tol: float, max_iter: int, progress: bool) -> _Point:
        """Ascend from `squared`, from the end of a continuation in λ, and from `init`; return the best end.

        As λ grows the game becomes that of squared loss, whose optimum is known. With λ lowered step by step from there
        the ascent usually avoids poor stationary points. Where the concept is separable it may not, and the ascent that
        starts at `squared` may end higher. So both are tried.
        """
        with tqdm(desc=f"rlace, rank {rank}", disable=not progress, leave=False) as bar:
            squared = continued = self.full[:, :rank]
            steps = 0
            for factor in _CONTINUATION:
                eased = copy.copy(self)
                eased.l2 = factor * self.l2
                point = eased.climb(eased.evaluate(continued), max(tol, 1e-2), max_iter // 4, bar)
                continued, steps = point.directions, steps + point.iterations
            starts = [continued, squared] if init is None else [continued, squared, self.extend(init, rank)]
            ends = [self.climb(self.evaluate(start), tol, max_iter, bar) for start in starts]
        best = max(ends, key=lambda end: end.value)
        steps += sum(end.iterations for end in ends)
        return replace(self.evaluate(best.directions, best.warm), iterations=steps)

    def climb(self, point: _Point, tol: float, max_iter: int, bar: Any) -> _Point:
        """Ascend from `point` by Riemannian L-BFGS with backtracking."""
        memory: list[tuple[Tensor, Tensor]] = []
        for iteration in range(max_iter):
            if point.stationarity <= tol or point.ascent is None:
                break
            new = self._step(point, _quasi_newton(point.ascent, memory))
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

    def _step(self, point: _Point, direction: Tensor) -> _Point | None:
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


def _choose_solver(solver: RlaceSolver, game: _Game, rank: int) -> RlaceSolver:
    """Resolve `auto`, and check that the solver can serve this concept and rank."""
    full = game.full.shape[1]
    if solver == "auto":
        return "closed_form" if rank >= full else "squared" if game.y is None else "game"
    if solver == "closed_form" and rank < full:
        raise ValueError(
            f"rank is {rank}, but the closed form is optimal only from rank Cov(x, z) = {full} up: take "
            "solver='game' or 'squared'"
        )
    if game.y is None and solver in ("game", "sgd"):
        raise ValueError(f"solver is {solver!r}, which needs z as labels [n] or one-hot [n, K]: take 'squared'")
    return solver


def _solution(game: _Game, point: _Point, solver: RlaceSolver, tol: float, seconds: float) -> RlaceSolution:
    stationary = solver != "sgd" and (solver == "squared" or point.stationarity <= tol)
    return RlaceSolution(
        solver=solver,
        value=point.value,
        cross_entropy=None if point.inner is None else point.inner.loss,
        l2=game.l2,
        grad_norm=0.0 if point.inner is None else point.inner.grad_norm,
        stationarity=point.stationarity,
        suboptimality_bound=game.constant_loss() - point.value,
        iterations=point.iterations,
        seconds=seconds,
        converged=stationary and (point.inner is None or point.inner.converged),
    )


def _ascent(point: _Point) -> Tensor:
    assert point.ascent is not None
    return point.ascent


def _quasi_newton(ascent: Tensor, memory: list[tuple[Tensor, Tensor]]) -> Tensor:
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


def _published(game: _Game, x: Tensor, rank: int, options: dict[str, Any]) -> _Point:
    """Run the published algorithm on x as it is, and solve the inner problem at the projection that it returns."""
    from efface.erasure.adversarial import solve_adv_game

    result = solve_adv_game(x, game.y, x, game.y, rank=rank, **{"device": x.device, **options})
    removed = torch.eye(x.shape[1], device=x.device) - result["P"]
    point = game.evaluate(game.whitened(torch.linalg.eigh(removed)[1][:, -rank:]))
    return replace(point, iterations=result["iterations"])


def _retract(directions: Tensor) -> Tensor:
    """Map a matrix to nearby orthonormal columns, by a QR decomposition with a positive diagonal."""
    Q, R = torch.linalg.qr(directions)
    columns: Tensor = Q * R.diagonal().sign()
    return columns


def _check(x: Tensor, z: Tensor, rank: int, solver: str, l2: float, sgd: dict[str, Any]) -> None:
    if x.ndim != 2 or z.ndim not in (1, 2) or len(x) != len(z):
        raise ValueError(
            f"x has shape {list(x.shape)} and z {list(z.shape)}: give x [n, d], and z [n] or [n, k] of the same n"
        )
    if x.is_complex() or z.is_complex():
        raise ValueError("x and z must be real: the game is defined for real features")
    check_rank(rank, x)
    if solver not in ("auto", "closed_form", "squared", "game", "sgd"):
        raise ValueError(f"solver is {solver!r}, but must be auto, closed_form, squared, game or sgd")
    if sgd and solver != "sgd":
        raise ValueError(f"{', '.join(sorted(sgd))}: only solver='sgd' takes arguments of solve_adv_game")
    if l2 <= 0:
        raise ValueError(f"l2 is {l2}, but must be positive: a separable concept has no best predictor without it")
    require_finite(x if x.is_floating_point() else x.float(), "x")
