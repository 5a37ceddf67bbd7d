import pytest
import torch
from sklearn.datasets import load_digits
from tests.erasure.test_rlace import mixture, solution_of
from tqdm import tqdm

from efface.erasure.game import Game, quasi_newton
from efface.erasure.rlace import RlaceEraser


def digits(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Leading principal components of the first images of handwritten digits."""
    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels[:n] - pixels[:n].mean(0))
    return x @ torch.linalg.svd(x, full_matrices=False)[2][:d].mT, torch.from_numpy(labels[:n])


def test_restarts_never_lower_the_value_and_are_counted() -> None:
    x, y = digits(1000, 20)
    gains = []
    for rank in (4,):
        without = solution_of(RlaceEraser.fit(x, y, rank=rank, restarts=0))
        several = [solution_of(RlaceEraser.fit(x, y, rank=rank, seed=seed)) for seed in (0, 1, 1)]
        assert (without.starts, without.optimal_for) == (2, ())
        assert 1 <= without.starts_at_best <= 2
        for solution in several:
            assert solution.converged
            assert solution.starts == 6
            assert 1 <= solution.starts_at_best <= 6
            assert solution.value >= without.value - 1e-8
            assert solution.iterations > without.iterations
            gains.append(solution.value - without.value)
        assert several[1].value == several[2].value
    assert max(gains) > 0.01


def test_exchange_replaces_one_direction_by_one_of_the_concept() -> None:
    x, y = mixture(k=6)
    game = Game(x, torch.nn.functional.one_hot(y).double(), y, None, l2=1e-4)
    U = torch.linalg.qr(torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    start = game.exchanged(U, torch.Generator().manual_seed(1))
    torch.testing.assert_close(start.mT @ start, torch.eye(3, dtype=torch.float64))
    cosines = torch.linalg.svdvals(U.mT @ start)
    torch.testing.assert_close(cosines[:2], torch.ones(2, dtype=torch.float64))  # two directions stay
    assert cosines[2] < 0.99
    both = torch.cat([U, game.full], 1)
    assert torch.linalg.matrix_rank(torch.cat([both, start], 1)) == torch.linalg.matrix_rank(both)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_game_comes_near_the_best_of_many_random_starts_on_digits(rank: int) -> None:
    """Cross-entropy has many stationary points here: twelve random starts end at as many as ten values."""
    x, y = digits(1000, 20)
    solution = solution_of(RlaceEraser.fit(x, y, rank=rank))
    assert solution.converged
    assert solution.value >= solution_of(RlaceEraser.fit(x, y, rank=rank, restarts=0)).value - 1e-8
    game = Game(x, torch.nn.functional.one_hot(y).double(), y, None, l2=1e-4)
    g = torch.Generator().manual_seed(0)
    starts = [torch.linalg.qr(torch.randn(20, rank, generator=g, dtype=torch.float64))[0] for _ in range(12)]
    with tqdm(disable=True) as bar:
        values = [game.climb(game.evaluate(start), 1e-2, 300, bar).value for start in starts]
    assert max(values) - min(values) > 0.02
    assert solution.value > 0.97 * max(values)


def test_quasi_newton_direction_is_exact_on_a_quadratic() -> None:
    """With a pair (s, A s) for each of a full set of A-conjugate steps, the direction is A⁻¹ times the gradient."""
    g = torch.Generator().manual_seed(0)
    A = torch.randn(6, 6, generator=g, dtype=torch.float64)
    A = A @ A.mT + torch.eye(6)
    steps = torch.linalg.eigh(A)[1]
    pairs = [(s[:, None], A @ s[:, None]) for s in steps.mT]
    ascent = torch.randn(6, 1, generator=g, dtype=torch.float64)
    torch.testing.assert_close(quasi_newton(ascent, pairs), torch.linalg.solve(A, ascent))
    torch.testing.assert_close(quasi_newton(ascent, []), ascent)
    # Whatever the pairs, the last one is met: a change of gradient y came from the step s.
    pairs = [(s, A @ s) for s in torch.randn(3, 6, 2, generator=g, dtype=torch.float64)]
    torch.testing.assert_close(quasi_newton(pairs[-1][1], pairs), pairs[-1][0])


def test_curvature_saves_most_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = mixture(n=400)
    game = Game(x, torch.nn.functional.one_hot(y).double(), y, None, l2=1e-3)
    start = game.evaluate(game.full[:, :2])
    with tqdm(disable=True) as bar:
        point = game.climb(start, 1e-6, 300, bar)
        monkeypatch.setattr("efface.erasure.game.quasi_newton", lambda ascent, memory: ascent)
        steepest = game.climb(start, 1e-6, 300, bar)
    assert point.stationarity <= 1e-6
    assert point.iterations < 0.6 * steepest.iterations
