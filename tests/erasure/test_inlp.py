import pytest
import torch
from tests.erasure.test_rlace import mixture, require_projection

from efface.erasure.inlp import InlpEraser
from efface.softmax import fit_softmax


@pytest.mark.parametrize("k", [2, 4])
def test_predictor_weights_lie_in_the_nullspace(k: int) -> None:
    x, y = mixture(k=k)
    eraser = InlpEraser.fit(x, y, iterations=2)
    require_projection(eraser, 2 * (k - 1))
    scale = x.std(0, correction=0)
    first = fit_softmax((x - x.mean(0)) / scale, y, l2=1e-4, tol=1e-10)
    contrast = (first.weight - first.weight.mean(0)) / scale
    assert (contrast @ eraser.P).abs().max() < 1e-8 * contrast.abs().max()
    one = InlpEraser.fit(x, y, iterations=1)
    second = fit_softmax((one(x) - x.mean(0)) / scale, y, l2=1e-4, tol=1e-10)
    # After the second iteration, the second predictor reads nothing either.
    readings = (eraser(x) - x.mean(0)) / scale @ (second.weight - second.weight.mean(0)).mT
    assert readings.abs().max() < 1e-6
    # What is removed stays removed.
    assert (one.proj_right @ eraser.P).abs().max() < 1e-12


def test_accuracies_fall_to_the_majority() -> None:
    x, y = mixture(n=1200, k=2)
    eraser = InlpEraser.fit(x[:600], y[:600], iterations=11, x_dev=x[600:], z_dev=y[600:])
    majority = float(torch.bincount(y[600:]).max()) / 600
    assert len(eraser.accuracies) == 11
    assert eraser.accuracies[0] > majority + 0.1
    assert eraser.accuracies[-1] < majority + 0.05


def test_rank_limits_and_weights_count() -> None:
    x, y = mixture(k=4)
    require_projection(InlpEraser.fit(x, y, rank=2), 2)
    require_projection(InlpEraser.fit(x, y, rank=5), 5)
    repeat = torch.randint(1, 3, (600,), generator=torch.Generator().manual_seed(0))
    weighted = InlpEraser.fit(x, y, rank=3, weight=repeat.double())
    repeated = InlpEraser.fit(x.repeat_interleave(repeat, 0), y.repeat_interleave(repeat), rank=3)
    torch.testing.assert_close(weighted.P, repeated.P, atol=1e-5, rtol=0)


def test_inlp_stops_when_no_predictor_is_informative() -> None:
    y = torch.arange(400) % 2
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x.repeat_interleave(2, 0)[:400]  # each value under both labels: no predictor tells them apart
    eraser = InlpEraser.fit(x, y, rank=3)
    assert eraser.rank == 0
    torch.testing.assert_close(eraser(x), x)


def test_bad_input() -> None:
    """Covers faults C4."""
    x, y = mixture()
    with pytest.raises(ValueError, match="rank and iterations are both None"):
        InlpEraser.fit(x, y)
    with pytest.raises(ValueError, match="iterations is 0"):
        InlpEraser.fit(x, y, iterations=0)
    with pytest.raises(ValueError, match="rank is 12"):
        InlpEraser.fit(x, y, rank=12)
    with pytest.raises(ValueError, match="must be labels"):
        InlpEraser.fit(x, torch.randn(600), rank=1)
    with pytest.raises(ValueError, match="single class, 3"):
        InlpEraser.fit(x, torch.full((600,), 3), rank=1)
    with pytest.raises(ValueError, match="go together"):
        InlpEraser.fit(x, y, rank=1, x_dev=x)


def test_dead_feature_takes_part_in_nothing() -> None:
    """As of some networks: it is 1e-33 and not 0, and in units of its deviation it would be all that predictors see."""
    x, y = mixture(n=600, k=2)
    dead = torch.cat([x, 1e-33 * x[:, :1]], 1)
    whole, part = InlpEraser.fit(dead, y, iterations=3), InlpEraser.fit(x, y, iterations=3)
    assert whole.rank == 3
    torch.testing.assert_close(whole.P[:-1, :-1], part.P, atol=1e-6, rtol=0)
