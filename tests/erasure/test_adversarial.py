import inspect
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from tests.erasure.test_rlace import mixture

from efface.erasure import adversarial
from efface.erasure.adversarial import _SgdGame, project_to_fantope, solve_adv_game
from efface.erasure.rlace import RlaceEraser
from efface.softmax import fit_softmax


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
            lambda v, target=target: np.square(v - target).sum(),
            np.full(5, rank / 5),
            method="SLSQP",
            bounds=[(0, 1)] * 5,
            constraints={"type": "eq", "fun": lambda v: v.sum() - rank},
            options={"ftol": 1e-14, "maxiter": 500},
        )
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


FAST: dict[str, Any] = {"optimizer_params_P": {"lr": 0.1}, "optimizer_params_predictor": {"lr": 0.1}, "progress": False}


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


def test_defaults_are_those_of_the_original() -> None:
    parameters = inspect.signature(solve_adv_game).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if parameter.default is not None}
    assert [*parameters][:15] == [
        *("X_train", "y_train", "X_dev", "y_dev", "rank", "device", "out_iters", "in_iters_adv", "in_iters_clf"),
        *("epsilon", "batch_size", "evalaute_every", "optimizer_class", "optimizer_params_P"),
        "optimizer_params_predictor",
    ]
    expected = {
        "rank": 1,
        "device": "cpu",
        "out_iters": 75_000,
        "in_iters_adv": 1,
        "in_iters_clf": 1,
        "epsilon": 0.0015,
        "batch_size": 128,
        "evalaute_every": 1000,
        "optimizer_class": torch.optim.SGD,
    }
    assert expected.items() <= defaults.items()
    assert adversarial._OPTIMIZER_PARAMS == {"lr": 0.005, "weight_decay": 1e-4}


def test_start_and_batches_are_those_of_the_original() -> None:
    """R is 0.1 · the symmetric part of a normal matrix, unprojected; the predictor starts as `nn.Linear` does."""
    d = 60
    x, y = torch.randn(50, d, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4
    game = _SgdGame(x, y, 4, 2, None, 128, 0)
    R = game.R.detach()
    torch.testing.assert_close(R, R.mT)
    assert R.diagonal().std() == pytest.approx(0.1, rel=0.3)
    assert R[*torch.triu_indices(d, d, 1)].std() == pytest.approx(0.1 / 2**0.5, rel=0.1)
    assert abs(float(R.trace()) - 2) > 0.01
    parameters = torch.cat([game.W.detach().flatten(), game.b.detach()])
    assert parameters.abs().max() <= d**-0.5
    assert parameters.std() == pytest.approx((3 * d) ** -0.5, rel=0.1)
    assert game.b.detach().abs().min() > 0
    assert sorted(game._draw().tolist()) == list(range(50))  # without replacement, and at most all of them
    game.batch_size = 20
    assert len(set(game._draw().tolist())) == 20


def test_rounds_are_those_of_the_original(problem: tuple[np.ndarray, np.ndarray]) -> None:
    """Two rounds by hand: a step of R against the loss, brought to the Fantope, then one of the predictor."""
    x, y = (torch.from_numpy(part) for part in problem)
    x = x.double()
    game = _SgdGame(x, y, 2, 1, None, 128, 3)
    twin = _SgdGame(x, y, 2, 1, None, 128, 3)
    R, w, b = twin.R.detach().clone(), twin.W.detach()[0].clone(), twin.b.detach()[0].clone()
    players = [torch.optim.SGD([game.R], lr=0.5), torch.optim.SGD([game.W, game.b], lr=0.5)]

    def residual(rows: torch.Tensor) -> torch.Tensor:
        return (torch.sigmoid(x[rows] @ (w - R @ w) + b) - y[rows]) / len(rows)

    for iteration in (1, 2):
        game.step_projection(players[0], iteration)
        game.step_predictor(players[1])
        rows = twin._draw()
        gradient = -torch.outer(x[rows].mT @ residual(rows), w)
        R = project_to_fantope(R + 0.5 * gradient, 1)
        rows = twin._draw()
        r = residual(rows)
        w, b = w - 0.5 * (r @ (x[rows] - x[rows] @ R)), b - 0.5 * r.sum()
    torch.testing.assert_close(game.R.detach(), R)
    torch.testing.assert_close(game.W.detach()[0], w)
    torch.testing.assert_close(game.b.detach()[0], b)


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, torch.Tensor]]:
    """Every probe of a run with the projection that it was fitted after, in order."""
    made = list[tuple[Any, torch.Tensor]]()
    probe = adversarial._probe

    def recorded(*arguments: Any) -> Any:
        made.append((probe(*arguments), arguments[-1]))
        return made[-1][0]

    monkeypatch.setattr(adversarial, "_probe", recorded)
    return made


def test_projection_of_the_highest_loss_on_train_is_returned(
    problem: tuple[np.ndarray, np.ndarray], probes: list[tuple[Any, torch.Tensor]]
) -> None:
    """Evaluated after round 1 and every so many rounds from there, as in the original, and not at the end."""
    X, y = problem
    result = solve_adv_game(X[:600], y[:600], X[600:], y[600:], 1, out_iters=300, evalaute_every=40, epsilon=0, **FAST)
    assert len(probes) == 8
    best, P = max(probes, key=lambda made: made[0].loss)
    np.testing.assert_array_equal(result["P"], P.numpy())
    assert (result["loss"], result["score"]) == (best.loss, best.accuracy)
    x = torch.from_numpy(X)
    scale = x[:600].std(0)
    fit = fit_softmax((x[:600] - x[:600].mean(0)) @ P / scale, torch.from_numpy(y[:600]), l2=1e-5)
    assert fit.loss == pytest.approx(result["loss"], abs=1e-4)
    hits = fit.logits((x[600:] - x[:600].mean(0)) @ P / scale).argmax(1).numpy() == y[600:]
    assert hits.mean() == pytest.approx(result["score"], abs=0.006)


def test_rounds_end_when_the_loss_is_within_epsilon_of_the_entropy(
    problem: tuple[np.ndarray, np.ndarray], probes: list[tuple[Any, torch.Tensor]]
) -> None:
    X, y = problem
    assert solve_adv_game(X, y, X, y, 1, out_iters=60, evalaute_every=10, epsilon=0.9, **FAST)["iterations"] == 3
    probes.clear()
    share = y.mean()
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    result = solve_adv_game(X, y, X, y, 1, out_iters=2000, evalaute_every=10, epsilon=0.02, **FAST)
    gaps = [entropy - probe.loss for probe, _ in probes]
    assert len(gaps) > 2
    assert min(gaps[:-1]) >= 0.02 > gaps[-1] > 0
    assert result["iterations"] == 10 * (len(gaps) - 1) + 1


def test_data_frames_are_taken(problem: tuple[np.ndarray, np.ndarray]) -> None:
    """Covers faults C: KeyError 10."""
    pandas = pytest.importorskip("pandas")
    X, y = problem
    frame = pandas.DataFrame(X, index=range(10, 810))
    labels = pandas.Series(y, index=range(10, 810))
    plain = solve_adv_game(X, y, X, y, 1, out_iters=3, **FAST)
    result = solve_adv_game(frame, labels, frame, labels, 1, out_iters=3, **FAST)
    np.testing.assert_array_equal(result["P"], plain["P"])


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
        ({"weight": torch.ones(5)}, r"weight has shape \[5\], but must be \[800\]"),
        ({"weight": torch.zeros(800)}, "weight .* is all zero"),
        ({"X_train": [["a"]]}, "X_train holds"),
    ],
)
def test_bad_input(problem: tuple[np.ndarray, np.ndarray], change: dict[str, Any], message: str) -> None:
    X, y = problem
    arguments = {"X_train": X, "y_train": y, "X_dev": X, "y_dev": y, "rank": 1, "out_iters": 2, **change}
    with pytest.raises(ValueError, match=message):
        solve_adv_game(**arguments, progress=False)


def test_rank_that_is_no_integer(problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = problem
    with pytest.raises(TypeError, match=r"rank is 1\.5, but must be an integer"):
        solve_adv_game(X, y, X, y, 1.5, progress=False)  # type: ignore[arg-type]


def test_diverging_optimiser_raises(problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = problem
    with pytest.raises(FloatingPointError, match="lower the lr in optimizer_params"):
        solve_adv_game(
            X,
            y,
            X,
            y,
            1,
            out_iters=200,
            evalaute_every=50,
            progress=False,
            optimizer_params_P={"lr": 1e30},
            optimizer_params_predictor={"lr": 1e30},
        )
