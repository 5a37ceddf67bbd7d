import inspect
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from tests.erasure.test_rlace import mixture

from efface.erasure import adversarial
from efface.erasure.adversarial import project_to_fantope, solve_adv_game
from efface.erasure.rlace import RlaceEraser
from efface.softmax import SoftmaxFit, fit_softmax


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
    x, y = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 2
    players = Players()
    solve_adv_game(x, y, x, y, out_iters=1, optimizer_class=players, progress=False)  # type: ignore[arg-type]
    assert players.options == [{"lr": 0.005, "weight_decay": 1e-4}] * 2


class Players:
    """An optimiser class that shows what the game hands to it: the projection's parameters first, the predictor's next.

    Gradients are those of the first step of each player.
    """

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []
        self.parameters: list[torch.Tensor] = []
        """R, W and b, as the game goes on."""
        self.start: list[torch.Tensor] = []
        self.gradients: dict[int, list[torch.Tensor]] = {}

    def __call__(self, parameters: list[torch.Tensor], **options: Any) -> torch.optim.Optimizer:
        player = len(self.options)
        self.options.append(options)
        self.parameters += parameters
        self.start += [p.detach().clone() for p in parameters]
        optimizer = torch.optim.SGD(parameters, **options)

        def look(*_: Any) -> None:
            self.gradients.setdefault(player, [p.grad.clone() for p in parameters if p.grad is not None])

        optimizer.register_step_pre_hook(look)
        return optimizer


def test_start_is_that_of_the_original() -> None:
    """R is 0.1 · the symmetric part of a normal matrix, unprojected; the predictor starts as `nn.Linear` does."""
    d = 60
    x, y = torch.randn(50, d, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4
    players = Players()
    solve_adv_game(x, y, x, y, 2, out_iters=1, optimizer_class=players, progress=False)  # type: ignore[arg-type]
    R, W, b = players.start
    torch.testing.assert_close(R, R.mT)
    assert R.diagonal().std() == pytest.approx(0.1, rel=0.3)
    assert R[*torch.triu_indices(d, d, 1)].std() == pytest.approx(0.1 / 2**0.5, rel=0.1)
    assert abs(float(R.trace()) - 2) > 0.01
    parameters = torch.cat([W.flatten(), b])
    assert parameters.abs().max() <= d**-0.5
    assert parameters.std() == pytest.approx((3 * d) ** -0.5, rel=0.1)
    assert b.abs().min() > 0


@pytest.mark.parametrize(("batch_size", "drawn"), [(20, 20), (128, 50)])
def test_batches_are_drawn_without_replacement(batch_size: int, drawn: int) -> None:
    """The gradient of the predictor is a sum over the samples drawn, each of which has a column of its own here."""
    n = 50
    x, y = torch.eye(n, dtype=torch.float64), torch.arange(n) % 4
    players = Players()
    still: dict[str, Any] = {"optimizer_class": players, "optimizer_params_P": {"lr": 0.0}, "progress": False}
    solve_adv_game(x, y, x, y, 2, out_iters=1, batch_size=batch_size, **still)
    R = project_to_fantope(players.start[0], 2)
    # By row, (softmax − one-hot) / batch size: columns of samples that were not drawn are 0.
    residual = players.gradients[1][0] @ torch.linalg.pinv(torch.eye(n, dtype=torch.float64) - R, rtol=1e-9)
    expected = ((x - x @ R) @ players.start[1].mT + players.start[2]).softmax(1) - torch.nn.functional.one_hot(y, 4)
    gradient = players.gradients[1][1]
    assert float(gradient.abs().sum()) > 0
    assert int((residual.abs().amax(0) > 1e-6).sum()) == drawn
    torch.testing.assert_close(
        residual[:, residual.abs().amax(0) > 1e-6].mT,
        expected[residual.abs().amax(0) > 1e-6] / drawn,
        atol=1e-6,
        rtol=1e-5,
    )


def test_rounds_are_those_of_the_original(problem: tuple[np.ndarray, np.ndarray]) -> None:
    """Two rounds by hand: a step of R against the loss, brought to the Fantope, then one of the predictor."""
    x, y = (torch.from_numpy(part) for part in problem)
    x, players = x.double(), Players()
    options: dict[str, Any] = {"optimizer_params_P": {"lr": 0.5}, "optimizer_params_predictor": {"lr": 0.5}}
    whole: dict[str, Any] = {"out_iters": 2, "batch_size": len(x), "seed": 3, "progress": False}
    solve_adv_game(x, y, x, y, 1, optimizer_class=players, **options, **whole)  # type: ignore[arg-type]
    R, w, b = players.start[0], players.start[1][0], players.start[2][0]

    def residual() -> torch.Tensor:
        return (torch.sigmoid(x @ (w - R @ w) + b) - y) / len(x)

    for _ in range(2):
        R = project_to_fantope(R - 0.5 * torch.outer(x.mT @ residual(), w), 1)
        r = residual()
        w, b = w - 0.5 * (r @ (x - x @ R)), b - 0.5 * r.sum()
    torch.testing.assert_close(players.parameters[0].detach(), R)
    torch.testing.assert_close(players.parameters[1].detach()[0], w)
    torch.testing.assert_close(players.parameters[2].detach()[0], b)


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The loss of every probe of a game, in order."""
    made = list[float]()

    def recorded(*arguments: Any, **options: Any) -> SoftmaxFit:
        fit = fit_softmax(*arguments, **options)
        made.append(fit.loss)
        return fit

    monkeypatch.setattr(adversarial, "fit_softmax", recorded)
    return made


def test_projection_of_the_highest_loss_on_train_is_returned(
    problem: tuple[np.ndarray, np.ndarray], losses: list[float]
) -> None:
    """Evaluated after round 1 and every so many rounds from there, as in the original, and not at the end."""
    X, y = problem
    result = solve_adv_game(X[:600], y[:600], X[600:], y[600:], 1, out_iters=300, evalaute_every=40, epsilon=0, **FAST)
    assert len(losses) == 8
    assert result["loss"] == max(losses) > losses[-1]
    x, P = torch.from_numpy(X), torch.from_numpy(result["P"])
    scale = x[:600].std(0)
    fit = fit_softmax((x[:600] - x[:600].mean(0)) @ P / scale, torch.from_numpy(y[:600]), l2=1e-5)
    assert fit.loss == pytest.approx(result["loss"], abs=1e-4)
    hits = fit.logits((x[600:] - x[:600].mean(0)) @ P / scale).argmax(1).numpy() == y[600:]
    assert hits.mean() == pytest.approx(result["score"], abs=0.006)


def test_rounds_end_when_the_loss_is_within_epsilon_of_the_entropy(
    problem: tuple[np.ndarray, np.ndarray], losses: list[float]
) -> None:
    X, y = problem
    assert solve_adv_game(X, y, X, y, 1, out_iters=60, evalaute_every=10, epsilon=0.9, **FAST)["iterations"] == 3
    losses.clear()
    share = y.mean()
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    result = solve_adv_game(X, y, X, y, 1, out_iters=2000, evalaute_every=10, epsilon=0.02, **FAST)
    gaps = [entropy - loss for loss in losses]
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
