import math

import pytest
import torch

from efface.unlearning.certified.mechanism import allowed_shift, gaussian, gaussian_delta


@pytest.mark.parametrize("shift", [0.05, 0.5, 2.0, 6.0])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
def test_delta_is_the_integral_it_stands_for(shift: float, epsilon: float) -> None:
    # δ is the most probability that one distribution has above e^ε times the other's.
    values = torch.linspace(-20, 26, 2_000_001, dtype=torch.float64)
    density = lambda mean: torch.exp(-(values - mean).square() / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    integral = float((density(shift) - math.exp(epsilon) * density(0)).clamp_min(0).sum() * (values[1] - values[0]))
    assert gaussian_delta(shift, epsilon) == pytest.approx(integral, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("delta", [1e-9, 1e-5, 0.01, 0.4])
@pytest.mark.parametrize("epsilon", [0.01, 0.3, 1.0, 1.001, 3.0, 10.0, 100.0])
def test_the_shift_that_is_allowed_is_hidden(epsilon: float, delta: float) -> None:
    shift = allowed_shift(epsilon, delta)
    assert gaussian_delta(shift, epsilon) <= delta * (1 + 1e-9)
    assert gaussian_delta(shift * 1.001, epsilon) > delta


def test_the_published_relation_wastes_a_third_at_one_and_fails_far_above() -> None:
    published = lambda epsilon, delta: epsilon / math.sqrt(2 * math.log(1.5 / delta))  # noqa: E731
    assert allowed_shift(1.0, 1e-5) > 1.3 * published(1.0, 1e-5)
    assert gaussian_delta(published(1.0, 1e-5), 1.0) < 1e-7
    assert gaussian_delta(published(10.0, 1e-4), 10.0) > 1.5e-4
    assert allowed_shift(10.0, 1e-4) < published(10.0, 1e-4)


def test_the_shift_that_is_allowed_grows_smoothly_with_epsilon() -> None:
    assert allowed_shift(1.0001, 1e-5) == pytest.approx(allowed_shift(1.0, 1e-5), rel=1e-3)


def test_system_noise_is_normal_and_never_the_same() -> None:
    one, other = gaussian((200, 300)), gaussian((200, 300))
    assert not torch.equal(one, other)
    assert float(one.mean().abs()) < 0.02
    assert float(one.std()) == pytest.approx(1, abs=0.02)
    assert float(one.square().square().mean()) == pytest.approx(3, abs=0.2)
    assert float((one < -1).double().mean()) == pytest.approx(0.1587, abs=0.01)
    seeded = [gaussian((3, 2), torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*seeded)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.1), (math.inf, 0.1), (1.0, 0.0), (1.0, 1.0)])
def test_bad_input(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match="but must"):
        allowed_shift(epsilon, delta)
