from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from tests.erasure.test_rlace import mixture

from efface.erasure.adversarial import project_to_fantope, solve_adv_game
from efface.erasure.rlace import RlaceEraser


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_fantope_projection_is_that_of_a_brute_force_solver(rank: int) -> None:
    g = torch.Generator().manual_seed(rank)
    for scale in (0.3, 1.0, 5.0):
        R = scale * torch.randn(5, 5, generator=g, dtype=torch.float64)
        R = (R + R.mT) / 2
        projected = project_to_fantope(R, rank)
        values = torch.linalg.eigvalsh(projected)
        assert float(values.sum()) == pytest.approx(rank, abs=1e-10)
        assert values.min() > -1e-10
        assert values.max() < 1 + 1e-10
        # The nearest point shares eigenvectors with R: what remains is a quadratic program in the eigenvalues.
        target = torch.linalg.eigvalsh(R).numpy()
        brute = minimize(
            lambda v, target=target: np.square(v - target).sum(), np.full(5, rank / 5), method="SLSQP",
            bounds=[(0, 1)] * 5,
            constraints={"type": "eq", "fun": lambda v: v.sum() - rank}, options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        assert float((projected - R).square().sum()) == pytest.approx(brute.fun, rel=1e-6)
        np.testing.assert_allclose(np.sort(values.numpy()), np.sort(brute.x), atol=1e-5)


def test_fantope_projection_keeps_points_of_the_fantope() -> None:
    U = torch.linalg.qr(torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    for point in (U @ U.mT, torch.eye(6, dtype=torch.float64) / 3):
        torch.testing.assert_close(project_to_fantope(point, 2), point)


@pytest.fixture(scope="module")
def problem() -> tuple[np.ndarray, np.ndarray]:
    x, y = mixture(n=800, d=8, k=2)
    return ((x - x.mean(0)) / x.std(0)).numpy().astype(np.float32), y.numpy()


FAST: dict[str, Any] = {
    "optimizer_params_P": {"lr": 0.1}, "optimizer_params_predictor": {"lr": 0.1}, "progress": False
}  # fmt: skip


def test_solve_adv_game_finds_a_projection_that_hides_the_label(problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = problem
    result = solve_adv_game(X[:600], y[:600], X[600:], y[600:], 1, out_iters=800, evalaute_every=100, **FAST)
    P = result["P"]
    assert isinstance(P, np.ndarray)
    np.testing.assert_allclose(P, P.T, atol=1e-6)
    np.testing.assert_allclose(P @ P, P, atol=1e-5)
    assert np.linalg.matrix_rank(P, tol=1e-3) == 7
    relaxed = np.linalg.eigvalsh(np.eye(8) - result["P_before_svd"])
    assert relaxed.sum() == pytest.approx(1, abs=1e-4)
    assert relaxed.min() > -1e-5
    majority = max(y[600:].mean(), 1 - y[600:].mean())
    assert result["score"] < majority + 0.05
    reached = RlaceEraser.fit(torch.from_numpy(X), torch.from_numpy(y), rank=1, solver="sgd", out_iters=800, **FAST)
    assert reached.solution is not None
    assert not reached.solution.converged
    best = RlaceEraser.fit(torch.from_numpy(X), torch.from_numpy(y), rank=1).solution
    assert best is not None
    assert best.value >= reached.solution.value


def test_seed_decides_the_result_and_epsilon_stops_early(problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = problem
    runs = [
        solve_adv_game(X, y, X, y, 2, out_iters=60, evalaute_every=30, seed=seed, **FAST)["P"] for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-3
    stopped = solve_adv_game(X, y, X, y, 1, out_iters=60, evalaute_every=10, epsilon=0.9, **FAST)
    assert stopped["iterations"] == 10


def test_labels_of_every_kind_and_tensors(problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = problem
    plain = solve_adv_game(X, y, X, y, 1, out_iters=20, evalaute_every=20, **FAST)
    for labels in (y.astype(bool), np.where(y == 1, "woman", "man").astype(object)):
        same = solve_adv_game(X, labels, X, labels, 1, out_iters=20, evalaute_every=20, **FAST)
        if labels.dtype == bool:
            np.testing.assert_array_equal(same["P"], plain["P"])
        assert same["score"] == pytest.approx(plain["score"], abs=0.1)
    tensors = solve_adv_game(torch.from_numpy(X), torch.from_numpy(y), X, y, 1, out_iters=20, evalaute_every=20, **FAST)
    assert isinstance(tensors["P"], torch.Tensor)
    np.testing.assert_array_equal(tensors["P"].numpy(), plain["P"])
    weight = torch.from_numpy(y).float() + 1
    weighted = solve_adv_game(X, y, X, y, 1, out_iters=20, evalaute_every=20, weight=weight, **FAST)
    assert np.abs(weighted["P"] - plain["P"]).max() > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 8}, r"rank is 8, but must lie in 1 … 7"),
        ({"y_train": np.zeros(800), "y_dev": np.zeros(800)}, "one class only"),
        ({"y_train": np.arange(799) % 2}, "one label for each row"),
        ({"y_dev": np.full(800, 7)}, r"y_dev has labels \[7\]"),
        ({"X_train": np.full((800, 8), np.nan)}, "X_train has 6400 NaN"),
        ({"X_dev": np.zeros((800, 3))}, "same features in both"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"evalaute_every": 0}, "evalaute_every is 0"),
    ],
)
def test_bad_input(problem: tuple[np.ndarray, np.ndarray], change: dict[str, Any], message: str) -> None:
    X, y = problem
    arguments = {"X_train": X, "y_train": y, "X_dev": X, "y_dev": y, "rank": 1, "out_iters": 2, **change}
    with pytest.raises(ValueError, match=message):
        solve_adv_game(**arguments, progress=False)


def test_diverging_optimiser_raises(problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = problem
    with pytest.raises(FloatingPointError, match="lower the lr in optimizer_params"):
        solve_adv_game(
            X, y, X, y, 1, out_iters=200, evalaute_every=50, progress=False, optimizer_params_P={"lr": 1e30},
            optimizer_params_predictor={"lr": 1e30},
        )  # fmt: skip
