from typing import Any

import pytest
import torch
from sklearn.cross_decomposition import CCA

from efface.erasure.certificate import certify
from efface.erasure.leace import LeaceEraser


def data(n: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (n,), generator=g)
    x = torch.randn(n, 8, generator=g, dtype=torch.float64) @ torch.randn(8, 8, generator=g, dtype=torch.float64)
    x[:, 0] += 3 * (y == 1)
    x[:, 1] += 3 * (y == 2)
    return x, y


def test_whitened_covariance_is_the_first_canonical_correlation_before_erasure() -> None:
    x, y = data()
    z = torch.nn.functional.one_hot(y, 3)[:, 1:].double()
    u, v = CCA(1, max_iter=10_000, tol=1e-12).fit_transform(x.numpy(), z.numpy())
    correlation = float(torch.corrcoef(torch.tensor([u[:, 0].tolist(), v[:, 0].tolist()]))[0, 1])
    for concept in (y, z):
        assert certify(lambda x: x, x, concept).whitened_covariance == pytest.approx(correlation, abs=1e-6)


def test_all_measures_are_zero_on_the_data_fitted_on() -> None:
    x, y = data()
    before, after = certify(lambda x: x, x, y), certify(LeaceEraser.fit(x, y), x, y)
    assert before.information is not None
    assert after.information is not None
    assert before.information > 0.1
    assert before.linear_gain > 0.1
    assert after.whitened_covariance < 1e-12
    assert 0 <= after.linear_gain < 1e-20
    assert abs(after.information) < 1e-9
    assert (after.n, after.d) == (600, 8)


def test_float32_rounding_is_not_reported_as_leakage() -> None:
    x, y = data()
    x = x.float()
    after = certify(LeaceEraser.fit(x, y), x, y)
    assert after.whitened_covariance < 1e-5
    assert after.information is not None
    assert after.information < 1e-6


def test_held_out_data_show_only_the_gain_by_chance() -> None:
    x, y = data(4000)
    eraser = LeaceEraser.fit(x[:2000], y[:2000])
    held_out = certify(eraser, x[2000:], y[2000:])
    before = certify(lambda x: x, x[2000:], y[2000:])
    assert 1e-3 < held_out.whitened_covariance < 0.2 * before.whitened_covariance
    assert held_out.information is not None
    assert 0 < held_out.information < 0.02


def test_weights_and_continuous_concepts() -> None:
    x, y = data()
    weight = torch.rand(len(x), dtype=torch.float64)
    eraser = LeaceEraser.fit(x, y, weight=weight)
    assert certify(eraser, x, y, weight=weight).whitened_covariance < 1e-12
    assert certify(eraser, x, y).whitened_covariance > 1e-3
    z = x[:, :2] + torch.randn(len(x), 2, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    before, after = certify(lambda x: x, x, z), certify(LeaceEraser.fit(x, z), x, z)
    assert before.information is None
    assert before.linear_gain > 0.3
    assert after.linear_gain < 1e-20


def test_incomplete_erasure_is_detected() -> None:
    x, y = data()
    eraser = LeaceEraser.fit(x, y)
    half = lambda x: (x + eraser(x)) / 2  # noqa: E731
    before, after = certify(lambda x: x, x, y), certify(half, x, y)
    assert after.whitened_covariance == pytest.approx(before.whitened_covariance / 2)
    assert after.linear_gain > 0.05  # a linear predictor undoes a factor


def test_units_of_the_concept_do_not_matter() -> None:
    x, y = data()
    z = torch.stack([(y == 1).double(), x[:, 3]], 1)
    expected = certify(lambda x: x, x, z).whitened_covariance
    scaled = certify(lambda x: x, x, z * torch.tensor([1e-9, 1e9])).whitened_covariance
    assert scaled == pytest.approx(expected, abs=1e-9)
    assert expected == pytest.approx(1)


def test_arrays_and_columns_of_labels_are_taken() -> None:
    x, y = data()
    expected = certify(lambda x: x, x, y)
    assert certify(lambda x: x, x.numpy(), y.numpy()[:, None], weight=[1.0] * 600) == expected
    with pytest.raises(ValueError, match=r"z has shape \[599\], but must be"):
        certify(lambda x: x, x, y[1:])
    with pytest.raises(ValueError, match="what eraser returned has shape"):
        certify(lambda x: x[:, 1:], x, y)


@pytest.mark.parametrize(
    ("eraser", "message"),
    [
        (lambda x: None, "eraser returned None, but must return the erased x"),
        (lambda x: (x, x), "what eraser returned is a tuple that torch cannot read"),
        (lambda x: 3.0, r"what eraser returned has shape \[\], but must be the erased x, \[600, "),
        (lambda x: x[:9], r"what eraser returned has shape \[9, "),
        (lambda x: x * torch.nan, "what eraser returned has .* NaN"),
    ],
)
def test_function_that_returns_no_erased_x_is_refused(eraser: Any, message: str) -> None:
    x, y = data()
    with pytest.raises(ValueError, match=message):
        certify(eraser, x, y)


def test_eraser_that_is_no_function_is_refused() -> None:
    x, y = data()
    with pytest.raises(TypeError, match="eraser is a NoneType, but must be a function of x"):
        certify(None, x, y)  # type: ignore[arg-type]
