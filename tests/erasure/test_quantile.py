import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ecdf

from efface.erasure.quantile import QuantileNormalizer, cdf, icdf

floats = st.floats(-1e6, 1e6, width=32)


@settings(deadline=None, max_examples=50)
@given(arrays(float, (20,), elements=floats), arrays(float, (7,), elements=floats).map(np.sort))
def test_cdf_agrees_with_scipy_and_icdf_is_its_pseudo_inverse(x: np.ndarray, q: np.ndarray) -> None:
    x = np.concatenate([x, q])  # ties too
    p = cdf(torch.from_numpy(x), torch.from_numpy(q))
    torch.testing.assert_close(p, torch.from_numpy(ecdf(q).cdf.evaluate(x)).float())
    inverse = icdf(p, torch.from_numpy(q))
    reached = p > 0
    assert (inverse[reached] <= torch.from_numpy(x)[reached]).all()
    assert (cdf(inverse, torch.from_numpy(q)) >= p).all()
    assert (inverse[~reached] == q[0]).all()


def test_batches_of_features() -> None:
    g = torch.Generator().manual_seed(0)
    x, q = torch.randn(50, 2, 3, generator=g), torch.randn(2, 3, 9, generator=g).sort(-1).values
    p, back = cdf(x, q), icdf(cdf(x, q), q)
    for i in range(2):
        for j in range(3):
            assert torch.equal(p[:, i, j], cdf(x[:, i, j], q[i, j]))
            assert torch.equal(back[:, i, j], icdf(p[:, i, j], q[i, j]))
    assert cdf(0.0, q).shape == (2, 3)


def classes() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    z = torch.arange(3000) % 2
    x = torch.randn(3000, 2, generator=g) * (1 + z[:, None]) + 5 * z[:, None]
    return x, z


@pytest.mark.parametrize("dim", [0, 1])
def test_normalizer(dim: int) -> None:
    x, z = classes()
    x = x.movedim(0, dim)
    normalizer = QuantileNormalizer(x, z, num_bins=64, dim=dim)
    assert normalizer.num_bins == 64
    assert normalizer.lut.shape == (2, 2, 64)
    first = x.movedim(dim, 0)[z == 0]
    expected = torch.quantile(first, torch.linspace(0, 1, 64), dim=0).mT
    torch.testing.assert_close(normalizer.lut[0], expected)
    p = normalizer.cdf(0, first)
    assert p.mean(0).sub(0.5).abs().max() < 0.02  # uniform
    moved = normalizer.transport(x, z, 1).movedim(dim, 0)
    torch.testing.assert_close(moved[z == 0].mean(0), torch.full((2,), 5.0), atol=0.2, rtol=0)
    torch.testing.assert_close(moved[z == 0].std(0), torch.full((2,), 2.0), atol=0.2, rtol=0)
    torch.manual_seed(0)
    drawn = normalizer.sample(1, 4000)
    assert drawn.shape == (4000, 2)
    torch.testing.assert_close(drawn.mean(0), torch.full((2,), 5.0), atol=0.2, rtol=0)


def test_bad_input() -> None:
    x, z = classes()
    with pytest.raises(ValueError, match="num_bins is 1"):
        QuantileNormalizer(x, z, num_bins=1)
    with pytest.raises(ValueError, match=r"labels \[1, 3\]"):
        QuantileNormalizer(x, 2 * z + 1)
    with pytest.raises(ValueError, match="two or more quantiles"):
        cdf(x, x[:1, :1])
    with pytest.raises(ValueError, match="key has dtype"):
        QuantileNormalizer(x, z.float())
