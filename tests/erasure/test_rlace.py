import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.erasure.test_leace import covariance

from efface.erasure.affine import AffineEraser
from efface.erasure.game import Game
from efface.erasure.leace import LeaceEraser
from efface.erasure.projections import MeanProjectionEraser
from efface.erasure.rlace import RlaceEraser, RlaceSolution
from efface.problem import Problem
from efface.softmax import fit_softmax


def mixture(
    n: int = 600, d: int = 12, k: int = 5, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """k Gaussian classes of common covariance, far from white, in d dimensions."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(k, (n,), generator=g)
    y[:k] = torch.arange(k)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64) * torch.logspace(0, -1, d, dtype=torch.float64)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + torch.randn(k, d, generator=g).double()[y] @ mix
    return (x + 3).to(dtype), y


def solution_of(eraser: RlaceEraser) -> RlaceSolution:
    assert eraser.solution is not None
    return eraser.solution


def require_projection(eraser: AffineEraser, rank: int) -> None:
    """Symmetric, idempotent, and of exact rank, to rounding."""
    P, eps = eraser.P, torch.finfo(eraser.proj_left.dtype).eps
    d = len(P)
    assert eraser.rank == rank
    torch.testing.assert_close(P, P.mT, rtol=0, atol=2 * eps)
    torch.testing.assert_close(P @ P, P, rtol=0, atol=d * 4 * eps)
    values = torch.linalg.eigvalsh(P.double())
    assert values[:rank].abs().max() < d * 4 * eps
    assert (values[rank:] - 1).abs().max() < d * 4 * eps


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_closed_form_is_optimal_at_full_rank(k: int, dtype: torch.dtype) -> None:
    x, y = mixture(k=k, dtype=dtype)
    eraser = RlaceEraser.fit(x, y, rank=k - 1)
    solution = solution_of(eraser)
    assert solution.solver == "closed_form"
    assert solution.converged
    assert abs(solution.suboptimality_bound) < 1e-8
    require_projection(eraser, k - 1)
    z = torch.nn.functional.one_hot(y).to(dtype)
    assert covariance(eraser(x), z) < 100 * torch.finfo(dtype).eps * float(x.abs().max())
    # It is the projection of mean projection and of SAL, and no other eraser of that kind.
    for same in (MeanProjectionEraser.fit(x, y), LeaceEraser.fit(x, z, method="orth", rtol=1e-4)):
        torch.testing.assert_close(eraser.P, same.P, rtol=0, atol=1e3 * torch.finfo(dtype).eps)
    assert (eraser.P - LeaceEraser.fit(x, z, rtol=1e-4).P).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_paper_demo_is_solved(dtype: torch.dtype) -> None:
    """Its features deviate over four decades: a direction taken for rounding is one where a probe reads."""
    from benchmarks.bench_rlace import demo

    x, y, x_dev, y_dev = demo()
    x, x_dev = x.to(dtype), x_dev.to(dtype)
    eraser = RlaceEraser.fit(x, y, rank=1)
    assert solution_of(eraser).suboptimality_bound < 1e-6
    P, scale = eraser.P.double(), x.double().std(0)
    fit = fit_softmax(x.double() @ P / scale, y, l2=1e-7)
    assert fit.converged
    for data, labels, points in ((x, y, 0.005), (x_dev, y_dev, 0.02)):
        accuracy = float((fit.logits(data.double() @ P / scale).argmax(1) == labels).double().mean())
        share = float(labels.double().mean())
        assert abs(accuracy - max(share, 1 - share)) < points


def test_game_at_full_rank_equals_the_closed_form() -> None:
    x, y = mixture()
    game, closed = (RlaceEraser.fit(x, y, rank=4, solver=solver) for solver in ("game", "closed_form"))  # type: ignore[arg-type]
    torch.testing.assert_close(game.P, closed.P)
    assert solution_of(game).iterations == 0
    assert solution_of(game).converged


def test_outer_gradient_agrees_with_finite_differences() -> None:
    x, y = mixture()
    g = torch.Generator().manual_seed(1)
    weight = torch.rand(len(x), generator=g)
    game = Game(x, torch.nn.functional.one_hot(y).double(), y, weight, l2=1e-2)
    U = torch.linalg.qr(torch.randn(12, 2, generator=g, dtype=torch.float64))[0]
    point = game.evaluate(U, tol=1e-11)
    assert point.ascent is not None
    for _ in range(3):
        D = torch.randn(12, 2, generator=g, dtype=torch.float64)
        D -= U @ (U.mT @ D)
        h = 1e-5
        values = [game.evaluate(torch.linalg.qr(U + t * D)[0], tol=1e-11).value for t in (h, -h)]
        assert (values[0] - values[1]) / (2 * h) == pytest.approx(float((point.ascent * D).sum()), rel=1e-5)


def test_outer_gradient_is_wrong_if_the_inner_problem_is_unsolved() -> None:
    x, y = mixture()
    game = Game(x, torch.nn.functional.one_hot(y).double(), y, None, l2=1e-4)
    exact = game.evaluate(game.full[:, :1], tol=1e-10)
    early = game.evaluate(game.full[:, :1], tol=3e-2)
    assert exact.ascent is not None
    assert early.ascent is not None
    assert (early.ascent - exact.ascent).norm() > 0.05 * exact.ascent.norm()


def test_game_is_stationary_monotone_in_rank_and_at_least_squared() -> None:
    x, y = mixture(n=400, k=6)
    last, previous = None, 0.0
    for rank in (1, 2, 3, 4, 5):
        eraser = RlaceEraser.fit(x, y, rank=rank, init=last)
        alone = solution_of(RlaceEraser.fit(x, y, rank=rank))
        squared = solution_of(RlaceEraser.fit(x, y, rank=rank, solver="squared"))
        solution = solution_of(eraser)
        require_projection(eraser, rank)
        assert solution.converged
        assert solution.stationarity <= 1e-3
        assert solution.grad_norm <= 1e-8
        assert solution.value >= max(previous, squared.value) - 1e-9
        assert solution.value >= alone.value - 0.05
        assert solution.suboptimality_bound >= -1e-9
        assert solution.cross_entropy is not None
        assert solution.cross_entropy <= solution.value
        # What is reported is what a regression finds at the projection: here without the penalty, so a little less.
        fit = fit_softmax((eraser(x) - x.mean(0)) / x.std(0), y, l2=1e-9, max_iter=300)
        assert fit.loss == pytest.approx(solution.cross_entropy, abs=0.02)
        last, previous = eraser, solution.value


def test_squared_on_labels_does_not_claim_to_be_stationary_in_cross_entropy() -> None:
    x, y = mixture(n=400, k=6)
    squared = solution_of(RlaceEraser.fit(x, y, rank=2, solver="squared"))
    assert squared.optimal_for == ("squared",)
    assert squared.stationarity > 0.01
    assert not squared.converged
    for solver in ("squared", "closed_form"):
        full = solution_of(RlaceEraser.fit(x, y, rank=5, solver=solver))  # type: ignore[arg-type]
        assert full.optimal_for == ("cross-entropy", "squared")
        assert full.converged
    z = torch.nn.functional.one_hot(y).double() + 0.1 * torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    numeric = solution_of(RlaceEraser.fit(x, z, rank=2))
    assert (numeric.solver, numeric.optimal_for, numeric.converged) == ("squared", ("squared",), True)


def test_solution_is_saved_with_the_eraser(tmp_path: Path) -> None:
    x, y = mixture()
    eraser = RlaceEraser.fit(x, y, rank=2, restarts=1)
    eraser.save(tmp_path / "eraser.safetensors")
    loaded = RlaceEraser.load(tmp_path / "eraser.safetensors")
    assert loaded.solution == eraser.solution
    torch.testing.assert_close(loaded(x), eraser(x))
    bare = replace(eraser, solution=None)
    bare.save(tmp_path / "bare.safetensors")
    assert RlaceEraser.load(tmp_path / "bare.safetensors").solution is None


def test_small_rotations_of_the_projection_are_no_better() -> None:
    x, y = mixture(n=400)
    eraser = RlaceEraser.fit(x, y, rank=2, tol=1e-5)
    game = Game(x, torch.nn.functional.one_hot(y).double(), y, None, l2=1e-4)
    U = game.whitened(eraser.proj_left)
    point = game.evaluate(U, tol=1e-9)
    assert point.value == pytest.approx(solution_of(eraser).value, abs=1e-8)
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        turned = torch.linalg.qr(U + 0.02 * torch.randn(U.shape, generator=g, dtype=U.dtype))[0]
        assert game.evaluate(turned, point.warm).value < point.value


def test_value_of_the_game_does_not_depend_on_the_units_of_x() -> None:
    x, y = mixture(n=300)
    values = [
        solution_of(RlaceEraser.fit(x * units, y, rank=2)).value
        for units in (torch.ones(12), torch.logspace(-3, 3, 12), torch.tensor(1e4))
    ]
    assert values[1:] == pytest.approx([values[0]] * 2, abs=1e-4)


def test_squared_loss_is_solved_exactly_at_every_rank() -> None:
    x, _ = mixture(n=300, d=6)
    g = torch.Generator().manual_seed(2)
    z = x @ torch.randn(6, 3, generator=g, dtype=x.dtype) + torch.randn(300, 3, generator=g, dtype=x.dtype)

    def left(P: torch.Tensor) -> float:
        """Variance of z, whitened, that least squares on x P leaves."""
        centred = (z - z.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.mT, correction=0))).mT
        features = (x - x.mean(0)) @ P
        beta = torch.linalg.lstsq(features, centred, driver="gelsd").solution
        return float((centred - features @ beta).square().sum() / len(x))

    for rank in (1, 2, 3, 4):
        eraser = RlaceEraser.fit(x, z, rank=rank)
        solution = solution_of(eraser)
        assert solution.solver == ("squared" if rank < 3 else "closed_form")
        assert solution.cross_entropy is None
        assert left(eraser.P) == pytest.approx(solution.value, abs=1e-9)
        assert solution.suboptimality_bound == pytest.approx(3 - solution.value, abs=1e-9)
        for _ in range(30):
            U = torch.linalg.qr(torch.randn(6, rank, generator=g, dtype=x.dtype))[0]
            nearby = torch.linalg.qr(eraser.proj_left + 0.05 * torch.randn(6, rank, generator=g, dtype=x.dtype))[0]
            for other in (U, nearby):
                assert left(torch.eye(6, dtype=x.dtype) - other @ other.mT) <= solution.value + 1e-9


def test_ranks_beyond_the_concept_take_directions_of_least_variance() -> None:
    x, y = mixture(k=2)
    eraser = RlaceEraser.fit(x, y, rank=4)
    require_projection(eraser, 4)
    assert solution_of(eraser).suboptimality_bound < 1e-8
    one = RlaceEraser.fit(x, y, rank=1)
    smallest = torch.linalg.eigvalsh(torch.cov(one(x).mT, correction=0))[1:4].sum()  # the first is what one removed
    lost = torch.cov(one(x).mT, correction=0).trace() - torch.cov(eraser(x).mT, correction=0).trace()
    assert float(lost) == pytest.approx(float(smallest), rel=1e-6)


def test_weights_count_as_repetitions() -> None:
    x, y = mixture(n=200, k=4)
    repeat = torch.randint(1, 4, (200,), generator=torch.Generator().manual_seed(0))
    for solver in ("squared", "game"):
        weighted = RlaceEraser.fit(x, y, rank=1, solver=solver, weight=repeat.double(), tol=1e-6)  # type: ignore[arg-type]
        repeated = RlaceEraser.fit(
            x.repeat_interleave(repeat, 0),
            y.repeat_interleave(repeat),
            rank=1,
            solver=solver,
            tol=1e-6,  # type: ignore[arg-type]
        )
        assert solution_of(weighted).value == pytest.approx(solution_of(repeated).value, abs=1e-7)
        torch.testing.assert_close(weighted.bias, repeated.bias)


@pytest.mark.parametrize("concept", ["labels", "one-hot", "booleans", "column"])
def test_concepts_of_every_kind(concept: str) -> None:
    x, y = mixture(k=2)
    z: Any = {
        "labels": y,
        "one-hot": torch.nn.functional.one_hot(y),
        "booleans": y.bool(),
        "column": y[:, None].float(),
    }[concept]
    torch.testing.assert_close(RlaceEraser.fit(x, z).P, RlaceEraser.fit(x, y).P)


def test_affine_keeps_the_mean_and_linear_is_x_times_P() -> None:
    x, y = mixture(k=2)
    torch.testing.assert_close(RlaceEraser.fit(x, y)(x).mean(0), x.mean(0))
    linear = RlaceEraser.fit(x, y, affine=False)
    torch.testing.assert_close(linear(x), x @ linear.P)


def test_fewer_samples_than_features_duplicates_and_separable_classes() -> None:
    x, y = mixture(n=10, d=30, k=3)
    for rank in (1, 2):
        eraser = RlaceEraser.fit(x, y, rank=rank)
        require_projection(eraser, rank)
        solution = solution_of(eraser)
        assert solution.converged
        assert math.isfinite(solution.value)
    assert solution.suboptimality_bound == pytest.approx(0, abs=1e-8)
    x, y = mixture(n=60, k=3)
    twice = RlaceEraser.fit(torch.cat([x, x]), torch.cat([y, y]), rank=2)
    torch.testing.assert_close(twice.P, RlaceEraser.fit(x, y, rank=2).P)


def test_real_concept_of_ten_classes_is_erased(ten_classes: Problem) -> None:
    x, y = ten_classes.pairs.x, ten_classes.pairs.y
    values = {}
    for solver, options in (("squared", {}), ("game", {}), ("sgd", {"out_iters": 300, "evalaute_every": 100})):
        solution = solution_of(RlaceEraser.fit(x, y, rank=4, solver=solver, max_iter=60, **options))  # type: ignore[arg-type]
        values[solver] = solution.value
    assert values["game"] > values["squared"]
    assert values["game"] > values["sgd"]


def test_concept_uncorrelated_with_x() -> None:
    y = torch.arange(400) % 2
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).repeat_interleave(2, 0)
    eraser = RlaceEraser.fit(x, y, rank=2)
    require_projection(eraser, 2)
    assert solution_of(eraser).suboptimality_bound == pytest.approx(0, abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(
    n=st.integers(8, 60),
    d=st.integers(2, 12),
    k=st.integers(2, 4),
    rank=st.integers(1, 11),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_result_is_a_projection(n: int, d: int, k: int, rank: int, dtype: torch.dtype, seed: int) -> None:
    rank = min(rank, d - 1)
    x, y = mixture(n, d, k, dtype, seed)
    eraser = RlaceEraser.fit(x, y, rank=rank, max_iter=5)
    require_projection(eraser, rank)
    assert eraser.proj_left.dtype == dtype
    assert solution_of(eraser).suboptimality_bound >= -1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, r"rank is 0, but must lie in 1 … 11"),
        ({"rank": 12}, r"rank is 12, but must lie in 1 … 11"),
        ({"restarts": -1}, "restarts is -1, but must be at least 0"),
        ({"max_iter": 0}, "max_iter is 0, but must be at least 1"),
        ({"weight": torch.ones(5)}, r"weight has shape \[5\], but must be \[600\]"),
        ({"weight": torch.zeros(600)}, "weight .* is all zero"),
        ({"solver": "adam"}, "solver is 'adam'"),
        ({"l2": 0.0}, "l2 is 0.0, but must be positive"),
        ({"solver": "closed_form", "rank": 1}, "optimal only from rank Cov"),
        ({"out_iters": 5}, "out_iters: only solver='sgd'"),
        ({"z": torch.zeros(600, dtype=torch.long)}, "single class"),
        ({"z": torch.randn(600, 2), "solver": "game"}, "needs z as labels"),
        ({"z": torch.zeros(5)}, r"z \[5\]"),
        ({"init": LeaceEraser(torch.eye(3)[:, :1], torch.eye(3)[:1])}, "init removes 1 of 3"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    x, y = mixture()
    arguments = {"z": y, "rank": 2, **change}
    if "init" in change:
        arguments["solver"] = "game"
    with pytest.raises(ValueError, match=message):
        RlaceEraser.fit(x, **arguments)


def test_concept_of_complex_numbers_is_refused() -> None:
    x, y = mixture()
    with pytest.raises(ValueError, match="z is complex, but must be real"):
        RlaceEraser.fit(x, torch.complex(y.double(), x[:, 0]))


def test_values_that_are_not_finite() -> None:
    x, y = mixture()
    x[3, 4] = math.nan
    with pytest.raises(ValueError, match="x has 1 NaN or infinite values, the first in row 3, column 4"):
        RlaceEraser.fit(x, y)
