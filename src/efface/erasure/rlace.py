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
  problem solved exactly, Danskin's theorem gives the gradient −Mᵀ G U, G = E[(p − z) xᵀ]. The value is not concave: an
  ascent ends at one of many stationary points. The best end from several starts is returned, one of which is `squared`.
* `sgd`: the published algorithm, `solve_adv_game`, to compare with.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from efface import tensorfiles
from efface.erasure.affine import AffineEraser
from efface.erasure.game import Ascent, Game
from efface.erasure.inputs import (
    as_concept,
    as_rows,
    check_rank,
    checked_weight,
    concept_matrix,
    feature_matrix,
    is_sparse,
    labels_of,
)
from efface.moments import working_dtype
from efface.products import SparseRows

RlaceSolver = Literal["auto", "closed_form", "squared", "game", "sgd"]


@dataclass(frozen=True)
class RlaceSolution:
    """How good a solution is. Losses are in nats, gradients in coordinates in which x is white."""

    solver: str
    optimal_for: tuple[str, ...]
    """The losses under which no projection of this rank is better, of `cross-entropy` and `squared`: both from rank
    Cov(x, z) up; `squared` alone for solver `squared` below it; none for `game`, whose end is stationary only, and for
    `sgd`."""
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
    """‖MᵀGU‖, the norm of the gradient of `value` over projections; 0 under squared loss, where the optimum is known.
    Of labels, `value` is a cross-entropy whatever the solver: the optimum of the squared loss is not stationary in
    it."""
    suboptimality_bound: float
    """H(z) − f(P), which no other projection can gain more than: 0 at full rank, and loose below it, where no tighter
    bound is known."""
    iterations: int
    """Steps of all ascents of `game`, rounds of `sgd`; 0 for the others."""
    starts: int
    """From how many starts `game` ascended: `squared`, the end of a continuation in λ, `init`, and the restarts; 0 for
    the other solvers."""
    starts_at_best: int
    """How many of them ended within 1e-3 nats of the best value. The fewer, the likelier there is a better end: raise
    `restarts`."""
    seconds: float
    converged: bool
    """The inner problem is solved, and the projection is stationary in `value` to `tol`. False for `sgd`, and as a rule
    for `squared` on labels."""


@dataclass(frozen=True)
class RlaceEraser(AffineEraser):
    """The orthogonal projection after which the best linear predictor of the concept has the highest loss; see
    `AffineEraser`.
    """

    solution: RlaceSolution | None = None
    """Saved and loaded with the eraser."""

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, atomically, with a checksum, the name of the class and the solution."""
        facts = {} if self.solution is None else {"solution": asdict(self.solution)}
        tensorfiles.write(path, self.tensors(), kind=type(self).__name__, facts=facts)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Self:
        """Read a file that `save` of this class wrote.

        Raises:
            ValueError: the file is damaged, or holds something else.
        """
        eraser = super().load(path, device)
        facts = tensorfiles.read(path, kind=cls.__name__)[1].get("solution")
        if facts is None:
            return eraser
        solution = RlaceSolution(**facts | {"optimal_for": tuple(facts["optimal_for"])})
        return replace(eraser, solution=solution)

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        x: Any,
        z: Any,
        *,
        rank: int = 1,
        solver: RlaceSolver = "auto",
        weight: Any = None,
        affine: bool = True,
        l2: float = 1e-4,
        tol: float = 1e-3,
        max_iter: int = 300,
        restarts: int = 4,
        seed: int = 0,
        init: AffineEraser | None = None,
        progress: bool = False,
        **sgd: Any,
    ) -> "RlaceEraser":
        """Fit on x `[n, d]` and a concept z: labels `[n]`, one-hot `[n, K]`, or for squared loss any `[n, k]`.

        Args:
            x: features: a tensor, a numpy array, a pandas frame, a list, or a sparse matrix of scipy.
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
            max_iter: steps of an ascent.
            restarts: ascents of `game` from random starts, after the two or three from known ones. Each takes about
                half the time of those together.
            seed: draws the restarts, or what `sgd` draws.
            init: an eraser of the same or of lower rank from which the ascent may start, completed by the best squared
                directions that it does not remove. The value is then at least the value of `init`: erasers fitted in
                ascending rank, each from the last, are monotone.
            progress: show a progress bar of the ascent, or of the published algorithm.
            sgd: for `solver="sgd"`, arguments of `solve_adv_game`.

        Cost: O(nd² + d³) for the closed form; each step of the game is a warm-started softmax regression.

        Raises:
            TypeError: rank is no integer.
            ValueError: shapes do not fit, values are not finite, z is constant, rank, a weight or another option is out
                of range, or the solver cannot serve this concept or this rank.
        """
        start = time.perf_counter()
        _check_options(solver, l2, max_iter, restarts, sgd)
        x, z = _read(x, z)
        weight = checked_weight(weight, x)
        check_rank(rank, x)
        x = x if isinstance(x, SparseRows) else x.to(working_dtype(x.dtype))
        game = Game(x, concept_matrix(z), labels_of(z), weight, l2)
        solver = _choose_solver(solver, game, rank)
        if solver == "sgd":
            ascent = _published(game, x, rank, {"progress": progress, "weight": weight, "seed": seed, **sgd})
        elif solver == "game":
            ascent = game.ascend(
                rank, init, tol=tol, max_iter=max_iter, restarts=restarts, seed=seed, progress=progress
            )
        else:
            ascent = Ascent(game.evaluate(game.full[:, :rank]), starts=0, at_best=0, iterations=0)
        directions = game.in_x(ascent.best.directions, rank)
        eraser = cls.orthogonal(directions.to(x.dtype), game.mean.to(x.dtype) if affine else None)
        return replace(eraser, solution=_solution(game, ascent, solver, rank, tol, time.perf_counter() - start))


def _choose_solver(solver: RlaceSolver, game: Game, rank: int) -> RlaceSolver:
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


def _solution(game: Game, ascent: Ascent, solver: RlaceSolver, rank: int, tol: float, seconds: float) -> RlaceSolution:
    point = ascent.best
    full = rank >= game.full.shape[1] and solver in ("closed_form", "squared")
    return RlaceSolution(
        solver=solver,
        optimal_for=("cross-entropy", "squared") if full else ("squared",) if solver == "squared" else (),
        value=point.value,
        cross_entropy=None if point.inner is None else point.inner.loss,
        l2=game.l2,
        grad_norm=0.0 if point.inner is None else point.inner.grad_norm,
        stationarity=point.stationarity,
        suboptimality_bound=game.constant_loss() - point.value,
        iterations=ascent.iterations,
        starts=ascent.starts,
        starts_at_best=ascent.at_best,
        seconds=seconds,
        converged=solver != "sgd" and point.stationarity <= tol and (point.inner is None or point.inner.converged),
    )


def _published(game: Game, x: Tensor | SparseRows, rank: int, options: dict[str, Any]) -> Ascent:
    """Run the published algorithm on x as it is, and solve the inner problem at the projection that it returns."""
    from efface.erasure.adversarial import solve_adv_game

    if isinstance(x, SparseRows):
        raise ValueError("x is sparse, which solver='sgd' does not take: give x.toarray(), or take another solver")
    result = solve_adv_game(x, game.y, x, game.y, rank=rank, **{"device": x.device, **options})
    removed = torch.eye(x.shape[1], device=x.device) - result["P"]
    point = game.evaluate(game.whitened(torch.linalg.eigh(removed)[1][:, -rank:]))
    return Ascent(point, starts=0, at_best=0, iterations=result["iterations"])


def _read(x: Any, z: Any) -> tuple[Tensor | SparseRows, Tensor]:
    """Read x `[n, d]` and a concept `[n]` or `[n, k]` as tensors on the device of x."""
    x, z = as_rows(x) if is_sparse(x) else feature_matrix(x), as_concept(z)
    if z.ndim not in (1, 2) or len(x) != len(z):
        raise ValueError(
            f"x has shape {list(x.shape)} and z {list(z.shape)}: give x [n, d], and z [n] or [n, k] of the same n"
        )
    if z.is_complex():
        raise ValueError("z is complex, but must be real: give its real and imaginary parts as columns")
    return x, z.to(x.device)


def _check_options(solver: str, l2: float, max_iter: int, restarts: int, sgd: dict[str, Any]) -> None:
    if solver not in ("auto", "closed_form", "squared", "game", "sgd"):
        raise ValueError(f"solver is {solver!r}, but must be auto, closed_form, squared, game or sgd")
    if sgd and solver != "sgd":
        raise ValueError(f"{', '.join(sorted(sgd))}: only solver='sgd' takes arguments of solve_adv_game")
    if l2 <= 0:
        raise ValueError(f"l2 is {l2}, but must be positive: a separable concept has no best predictor without it")
    if max_iter < 1:
        raise ValueError(f"max_iter is {max_iter}, but must be at least 1")
    if restarts < 0:
        raise ValueError(f"restarts is {restarts}, but must be at least 0")
