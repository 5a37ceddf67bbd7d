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
    """Covers faults C4."""
    x, z, _ = data()
    eraser = OracleEraser.fit(x, z)
    with pytest.raises(ValueError, match=r"z has shape \[299, 4\], but must be labels \[300\] or \[300, 4\]"):
        eraser(x, z[:299])
    with pytest.raises(ValueError, match=r"z has shape \[300, 3\], but must be"):
        eraser(x, z[:, :3])
    with pytest.raises(ValueError, match="labels from 0 to 4"):
        eraser(x, torch.full((300,), 4).index_fill(0, torch.tensor([0]), 0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_concepts_of_unlike_units_are_both_erased(dtype: torch.dtype) -> None:
    """Covers audit A4: sex kept a correlation of .70 beside income in dollars."""
    g = torch.Generator().manual_seed(0)
    sex = (torch.rand(4000, generator=g) < 0.5).double()
    income = 30_000 + 20_000 * torch.randn(4000, generator=g, dtype=torch.float64) + 5000 * sex
    x = torch.randn(4000, 6, generator=g, dtype=torch.float64)
    x[:, 0] += 2 * sex
    x[:, 1] += income / 20_000
    z = torch.stack([sex, income], 1)
    erased = OracleEraser.fit(x.to(dtype), z, rtol=1e-4)(x.to(dtype), z).double()
    left = torch.corrcoef(torch.cat([erased, z], 1).mT)[:6, 6:]
    assert left.abs().max() < (1e-12 if dtype == torch.float64 else 1e-5)


def test_direction_in_which_the_concept_hardly_varies_is_warned_of() -> None:
    x, z, _ = data()
    twin = torch.cat([z[:, :1], z[:, :1] + 1e-3 * z[:, 1:2]], 1)
    with pytest.warns(UserWarning, match=r"rtol=0.01 leaves 1 of 2 concept directions in place"):
        OracleEraser.fit(x, twin, rtol=0.01)


def test_labels_are_counted() -> None:
    x, z, y = data()
    w = torch.rand(300, dtype=torch.float64)
    counted, dense = (OracleEraser.fit(x, concept, weight=w, rtol=1e-8) for concept in (y, z))
    torch.testing.assert_close(counted(x, y), dense(x, z))
    torch.testing.assert_close(counted(x, z), dense(x, y))
    many = OracleFitter(6, 1_000_000, dtype=x.dtype, rtol=1e-4).update(x, 3000 * torch.arange(300) + y).eraser
    assert many(x, 3000 * torch.arange(300) + y).std(0).max() < 1e-12
    torch.testing.assert_close(many(x, torch.ones(300, dtype=torch.int64)), x)  # a class that did not occur


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rtol", [None, 1e-8])
def test_shrunk_covariance_of_labels_is_that_of_their_one_hot_columns(weighted: bool, rtol: float | None) -> None:
    x, z, y = data()
    weight = torch.rand(300, dtype=torch.float64) if weighted else None
    options = {"weight": weight, "rtol": rtol, "svd_tol": 1e-4, "shrinkage": True}
    counted, dense = (OracleEraser.fit(x, concept, **options) for concept in (y, z))
    torch.testing.assert_close(counted(x, y), dense(x, z))
    assert (counted(x, y) - OracleEraser.fit(x, y)(x, y)).abs().max() > 1e-4  # it does shrink


@pytest.mark.parametrize("shrinkage", [False, True])
def test_labels_take_no_matrix_of_classes_with_an_absolute_tolerance(shrinkage: bool) -> None:
    x, _, y = data()
    labels = 3000 * torch.arange(300) + y
    fitter = OracleFitter(6, 1_000_000, dtype=x.dtype, shrinkage=shrinkage).update(x, labels)
    # Every class has one sample, and is as good as its mean; shrinkage divides by the mean of equal variances.
    assert fitter.eraser(x, labels).std(0).max() < (0.01 if shrinkage else 1e-12)


def test_rare_class_is_subtracted_whatever_the_absolute_tolerance() -> None:
    x, _, _ = data()
    rare = (torch.arange(300) < 2).long() + 2 * (torch.arange(300) > 150)
    erased = OracleEraser.fit(x, rare)(x, rare)
    torch.testing.assert_close(erased[:2].mean(0), x.mean(0))


def test_arrays_and_any_leading_dimensions_are_taken() -> None:
    """Covers faults C: wrong d, and x `[n, 1]`, which was broadcast to `[n, d]`."""
    x, _, y = data()
    eraser = OracleEraser.fit(x.numpy(), y.numpy())
    expected = OracleEraser.fit(x, y)(x, y)
    torch.testing.assert_close(eraser(x.numpy(), y.tolist()), expected)
    torch.testing.assert_close(eraser(x.view(3, 100, 6), y.view(3, 100)).flatten(0, 1), expected)
    torch.testing.assert_close(eraser(x, y[:, None]), expected)
    with pytest.raises(ValueError, match=r"x has shape \[300, 1\], but its last dimension must be 6"):
        eraser(x[:, :1], y)
