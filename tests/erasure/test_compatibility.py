"""Code written for EleutherAI's concept_erasure 0.2.4 runs after a change of its import line, and says the same.

The comparisons run where that package is installed (`pip install -e .[bench]`).
"""

import inspect
import warnings
from types import ModuleType

import pytest
import torch

import efface
import efface.optimal_transport

PUBLIC = [
    *("LeaceFitter", "LeaceEraser", "OracleFitter", "OracleEraser", "QuadraticFitter", "QuadraticEraser"),
    *("QuadraticEditor", "optimal_linear_shrinkage", "groupby", "GroupedTensor", "ErasureMethod", "assert_type"),
    *("cdf", "icdf", "QuantileNormalizer"),
]


@pytest.fixture(scope="module")
def theirs() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("concept_erasure")


def data(k: int, continuous: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(k)
    n, d = 600, 9
    y = torch.randint(k, (n,), generator=g)
    z = torch.nn.functional.one_hot(y, k).double()
    if continuous:
        z = z + torch.randn(n, k, generator=g, dtype=torch.float64)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) @ torch.randn(d, d, generator=g, dtype=torch.float64)
    x += z @ torch.randn(k, d, generator=g, dtype=torch.float64)
    return x + 3, z, y


def test_every_public_name_is_there() -> None:
    for name in PUBLIC:
        assert hasattr(efface, name)
    for name in ("ot_barycenter", "ot_map", "ot_midpoint", "ot_distance", "is_positive_definite"):
        assert callable(getattr(efface.optimal_transport, name))
    assert efface.assert_type(int, 3) == 3
    with pytest.raises(TypeError, match="Expected str, got int"):
        efface.assert_type(str, 3)


@pytest.mark.parametrize("name", ["LeaceFitter", "OracleFitter", "QuadraticFitter"])
def test_signatures_admit_theirs(theirs: ModuleType, name: str) -> None:
    ours = inspect.signature(getattr(efface, name)).parameters
    for parameter in inspect.signature(getattr(theirs, name)).parameters.values():
        assert ours[parameter.name].default == parameter.default
        assert ours[parameter.name].kind == parameter.kind


@pytest.mark.parametrize("method", ["leace", "orth"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shrinkage", [True, False])
@pytest.mark.parametrize("constrain", [True, False])
@pytest.mark.parametrize("concept", ["one-hot", "continuous", "binary column", "binary labels", "two columns"])
def test_leace(theirs: ModuleType, method: str, affine: bool, shrinkage: bool, constrain: bool, concept: str) -> None:
    x, z, y = data(2 if "binary" in concept or "two" in concept else 4, concept == "continuous")
    z = {"binary column": z[:, 1], "binary labels": y}.get(concept, z)
    options = {"method": method, "affine": affine, "shrinkage": shrinkage, "constrain_cov_trace": constrain}
    mine, other = (package.LeaceFitter.fit(x, z, **options) for package in (efface, theirs))
    for name in ("mean_x", "mean_z", "sigma_xz", *(["sigma_xx"] if method == "leace" else [])):
        torch.testing.assert_close(getattr(mine, name), getattr(other, name), rtol=1e-8, atol=1e-8)
    assert mine.n == other.n
    torch.testing.assert_close(mine.eraser.P, other.eraser.P, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mine.eraser(x), other.eraser(x), rtol=1e-6, atol=1e-6)
    assert (mine.eraser.bias is None) == (other.eraser.bias is None)
    eraser = efface.LeaceEraser.fit(x, z, **options)
    torch.testing.assert_close(eraser(x), other.eraser(x), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:svd_tol")  # shrinkage lifts the redundant direction of one-hot labels
@pytest.mark.parametrize("shrinkage", [True, False])
@pytest.mark.parametrize("k", [2, 4])
def test_oracle(theirs: ModuleType, shrinkage: bool, k: int) -> None:
    x, z, _ = data(k)
    mine, other = (p.OracleFitter.fit(x, z, shrinkage=shrinkage) for p in (efface, theirs))
    torch.testing.assert_close(mine.sigma_zz, other.sigma_zz, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(mine.eraser.coef, other.eraser.coef, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mine.eraser(x, z), other.eraser(x, z), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shrinkage", [True, False])
@pytest.mark.parametrize("k", [2, 3])
def test_quadratic(theirs: ModuleType, shrinkage: bool, k: int) -> None:
    x, _, y = data(k)
    mine, other = (p.QuadraticFitter.fit(x, y, shrinkage=shrinkage) for p in (efface, theirs))
    torch.testing.assert_close(mine.sigma_xx, other.sigma_xx, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(mine.eraser.global_mean, other.eraser.global_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mine.eraser.ot_maps, other.eraser.ot_maps, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mine.eraser(x, y), other.eraser(x, y), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mine.editor()(x, y, 1), other.editor()(x, y, 1), rtol=1e-6, atol=1e-6)
    single = efface.QuadraticFitter(9, k, dtype=x.dtype, shrinkage=shrinkage)
    for label in range(k):
        single.update_single(x[y == label], label)
    torch.testing.assert_close(single.eraser(x, y), other.eraser(x, y), rtol=1e-6, atol=1e-6)


def test_transport_and_shrinkage(theirs: ModuleType) -> None:
    from concept_erasure import optimal_transport as other

    mine = efface.optimal_transport
    g = torch.Generator().manual_seed(0)
    a = torch.randn(3, 5, 8, generator=g, dtype=torch.float64)
    Ks = a @ a.mT
    weights = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(mine.ot_barycenter(Ks, weights), other.ot_barycenter(Ks, weights), rtol=1e-6, atol=1e-6)
    for name in ("ot_map", "ot_midpoint", "ot_distance"):
        torch.testing.assert_close(getattr(mine, name)(Ks[0], Ks[1]), getattr(other, name)(Ks[0], Ks[1]))
    shifted = Ks - 3 * torch.eye(5)
    assert torch.equal(mine.is_positive_definite(shifted), other.is_positive_definite(shifted))
    torch.testing.assert_close(
        efface.optimal_linear_shrinkage(Ks / 8, torch.tensor([8, 9, 10]).view(3, 1, 1)),
        theirs.optimal_linear_shrinkage(Ks / 8, torch.tensor([8, 9, 10]).view(3, 1, 1)),
        rtol=1e-8,
        atol=1e-8,
    )


def test_groupby(theirs: ModuleType) -> None:
    x, _, y = data(4)
    mine, other = (p.groupby(x, y, stable=True) for p in (efface, theirs))
    assert mine.labels == other.labels
    for (label, group), (other_label, other_group) in zip(mine, other, strict=True):
        assert label == other_label
        assert torch.equal(group, other_group)
    torch.testing.assert_close(mine.map(lambda i, g: g * i).coalesce(), other.map(lambda i, g: g * i).coalesce())
    assert torch.equal(mine.coalesce(), x)


# --- What is different, on purpose. Each is listed in efface.erasure. ---


def test_labels_of_several_classes_are_classes_not_numbers(theirs: ModuleType) -> None:
    x, z, y = data(4)
    labels = efface.LeaceEraser.fit(x, y)
    torch.testing.assert_close(labels.P, efface.LeaceEraser.fit(x, z).P)
    assert labels.rank == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        as_number = theirs.LeaceEraser.fit(x, y)
    assert not torch.allclose(as_number.P, labels.P)
    torch.testing.assert_close(efface.LeaceEraser.fit(x, y.double()).P, as_number.P, rtol=1e-6, atol=1e-6)


def test_other_layouts_and_integers_in_one_column_are_refused(theirs: ModuleType) -> None:
    x, z, y = data(4)
    theirs.LeaceFitter(9, 4, dtype=x.dtype).update(x, z.T)  # pairs each sample with another one's concept
    with pytest.raises(ValueError, match=r"z has shape \[4, 600\], but must be"):
        efface.LeaceFitter(9, 4, dtype=x.dtype).update(x, z.T)
    theirs.LeaceFitter(9, 1, dtype=x.dtype).update(x, y)
    with pytest.raises(ValueError, match="labels from 0 to 3, but they must lie in 0 … 1"):
        efface.LeaceFitter(9, 1, dtype=x.dtype).update(x, y)


def test_relative_tolerance_makes_the_linear_eraser_the_smallest_edit(theirs: ModuleType) -> None:
    x, z, _ = data(4)
    x = x + 20
    other = theirs.LeaceEraser.fit(x, z, affine=False, shrinkage=False)
    compatible, smallest = (
        efface.LeaceEraser.fit(x, z, affine=False, shrinkage=False, rtol=rtol) for rtol in (None, 1e-6)
    )
    torch.testing.assert_close(compatible.P, other.P, rtol=1e-6, atol=1e-6)
    assert (smallest(x) - x).square().sum() < 0.5 * (other(x) - x).square().sum()


def test_the_trace_constraint_never_acts(theirs: ModuleType) -> None:
    """PΣPᴴ = Σ − (LU)(LU)ᴴ, so the trace falls; the option is accepted and changes nothing."""
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(50, 12, generator=g, dtype=torch.float64) @ torch.randn(
            12, 12, generator=g, dtype=torch.float64
        )
        z = torch.randn(50, 3, generator=g, dtype=torch.float64) + x[:, :3]
        fitter = efface.LeaceFitter.fit(x, z, shrinkage=False)
        P, sigma = fitter.eraser.P, fitter.sigma_xx
        assert (P @ sigma @ P.mT).trace() <= sigma.trace() * (1 + 1e-12)
        assert torch.linalg.eigvalsh(sigma - P @ sigma @ P.mT).min() > -1e-9 * sigma.trace()
        other = efface.LeaceFitter.fit(x, z, shrinkage=False, constrain_cov_trace=False)
        assert torch.equal(other.eraser.P, P)


def test_factors_have_the_rank_of_the_eraser(theirs: ModuleType) -> None:
    x, z, _ = data(4)
    mine, other = efface.LeaceEraser.fit(x, z), theirs.LeaceEraser.fit(x, z)
    assert mine.proj_left.shape == (9, 3)
    assert other.proj_left.shape == (9, 4)


def test_complex_oracle_uses_the_conjugate(theirs: ModuleType) -> None:
    x, z, _ = data(3, continuous=True)
    xc, zc = torch.complex(x, x.flip(1)), torch.complex(z, z.roll(1, 1))
    erased = efface.OracleEraser.fit(xc, zc)(xc, zc)
    centred = zc - zc.mean(0)
    assert ((erased - erased.mean(0)).mH @ centred).abs().max() / len(x) < 1e-12
    theirs_erased = theirs.OracleEraser.fit(xc, zc)(xc, zc)
    assert ((theirs_erased - theirs_erased.mean(0)).mH @ centred).abs().max() / len(x) > 1e-3
