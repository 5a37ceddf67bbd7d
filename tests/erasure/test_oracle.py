import pytest
import torch

from efface.erasure.leace import LeaceEraser
from efface.erasure.oracle import OracleEraser, OracleFitter


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(4, (300,), generator=g)
    z = torch.nn.functional.one_hot(y, 4).double()
    x = torch.randn(300, 6, generator=g, dtype=torch.float64) + z @ torch.randn(4, 6, generator=g, dtype=torch.float64)
    return x, z, y


@pytest.mark.filterwarnings("ignore:the concept covaries with 3 directions")
def test_oracle_is_the_residual_of_least_squares_and_moves_less_than_leace() -> None:
    x, z, y = data()
    eraser = OracleEraser.fit(x, z, rtol=1e-8)
    means = torch.stack([x[y == k].mean(0) for k in range(4)])
    torch.testing.assert_close(eraser(x, z), x - means[y] + x.mean(0))
    torch.testing.assert_close(eraser(x, y), eraser(x, z))  # labels
    blind = LeaceEraser.fit(x, z, shrinkage=False)
    assert (eraser(x, z) - x).square().sum() < (blind(x) - x).square().sum()


def test_weighted_guardedness() -> None:
    x, z, _ = data()
    w = torch.rand(300, dtype=torch.float64)
    erased = OracleEraser.fit(x, z, weight=w, rtol=1e-8)(x, z)
    zc = z - (w @ z) / w.sum()
    assert ((w[:, None] * erased).mT @ zc).abs().max() < 1e-10


def test_streamed_and_merged() -> None:
    x, z, _ = data()
    whole = OracleFitter.fit(x, z).eraser
    one = OracleFitter(6, 4, dtype=x.dtype).update(x[:100], z[:100])
    other = OracleFitter(6, 4, dtype=x.dtype).update(x[100:], z[100:])
    torch.testing.assert_close(one.merge(other).eraser.coef, whole.coef)


def test_bad_input() -> None:
    x, z, _ = data()
    eraser = OracleEraser.fit(x, z)
    with pytest.raises(ValueError, match=r"z has shape \[299, 4\], but must be labels \[300\] or \[300, 4\]"):
        eraser(x, z[:299])
    with pytest.raises(ValueError, match=r"z has shape \[300, 3\], but must be"):
        eraser(x, z[:, :3])
    with pytest.raises(ValueError, match="labels from 0 to 4"):
        eraser(x, torch.full((300,), 4).index_fill(0, torch.tensor([0]), 0))
