import pytest
import torch
from torch import Tensor

from efface.unlearning.bias import (
    Bias,
    CounterfactualBias,
    DemographicParity,
    EqualOpportunity,
    biased,
    counterfactual_bias,
    head_logits,
)


def data(m: int = 60, d: int = 4, k: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(m, d, generator=g, dtype=torch.float64)
    x_cf = x + torch.randn(m, d, generator=g, dtype=torch.float64)
    return x, x_cf, torch.arange(m) % k, (torch.arange(m) // k) % 2


def functionals() -> list[Bias]:
    x, x_cf, y, a = data()
    return [
        CounterfactualBias(x, x_cf, y),
        CounterfactualBias(x, x_cf, y, signed=True),
        DemographicParity(x, a),
        EqualOpportunity(x, y, a),
    ]


def test_counterfactual_bias_of_a_known_pair() -> None:
    logits = torch.tensor([[3.0, 1.0], [0.0, 0.0]]).log_softmax(1)
    logits_cf = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    p = float(torch.tensor(2.0).sigmoid())
    y = torch.tensor([0, 1])
    torch.testing.assert_close(counterfactual_bias(logits, logits_cf, y), torch.tensor([2 * p - 1, 0.0]))
    flipped = counterfactual_bias(logits_cf, logits, y, signed=True)
    torch.testing.assert_close(flipped, torch.tensor([1 - 2 * p, 0.0]))
    assert biased(flipped, 0.5).tolist() == [True, False]
    with pytest.raises(ValueError, match="delta is 2"):
        biased(flipped, 2.0)
    with pytest.raises(ValueError, match="logits have shapes"):
        counterfactual_bias(logits, logits_cf[:1], y)


@pytest.mark.parametrize("bias", functionals(), ids=lambda b: type(b).__name__)
@pytest.mark.parametrize("intercept", [True, False])
def test_gradients_are_finite_differences(bias: Bias, intercept: bool) -> None:
    theta = torch.randn(3, 4 + intercept, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    direction = torch.randn_like(theta)
    h = 1e-5
    slope = (bias.value(theta + h * direction) - bias.value(theta - h * direction)) / (2 * h)
    assert float((bias.gradient(theta) * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_binary_functionals_are_the_usual_ones() -> None:
    x, _, y, a = data(k=2)
    theta = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p1 = head_logits(theta, x).softmax(1)[:, 1]
    parity = float((p1[a == 0].mean() - p1[a == 1].mean()).abs())
    assert DemographicParity(x, a).value(theta) == pytest.approx(parity, abs=1e-3)
    gaps = [abs(float(p1[(a == 0) & (y == c)].mean() - p1[(a == 1) & (y == c)].mean())) for c in (0, 1)]
    assert EqualOpportunity(x, y, a).value(theta) == pytest.approx(sum(gaps) / 2, abs=1e-3)


def test_a_model_that_ignores_the_attribute_has_no_bias() -> None:
    x, _, y, _ = data()
    x_cf = x.clone()
    x_cf[:, 0] += 5
    theta = torch.randn(3, 5, dtype=torch.float64)
    theta[:, 0] = 1.0  # the same for all classes
    assert CounterfactualBias(x, x_cf, y).value(theta) == pytest.approx(1e-3)  # the smoothing
    assert CounterfactualBias(x, x_cf, y, signed=True).value(theta) == pytest.approx(0, abs=1e-12)


def test_bad_input() -> None:
    x, x_cf, y, a = data()
    with pytest.raises(ValueError, match="no pairs"):
        CounterfactualBias(x[:0], x_cf[:0], y[:0])
    with pytest.raises(ValueError, match="one row in each"):
        CounterfactualBias(x, x_cf[:5], y)
    with pytest.raises(ValueError, match="a has one value only"):
        DemographicParity(x, torch.zeros_like(a))
    with pytest.raises(ValueError, match="one value for every label"):
        EqualOpportunity(x, y, y)
