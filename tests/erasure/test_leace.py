from pathlib import Path

import pytest
import torch

from efface.erasure.leace import LeaceEraser, LeaceFitter
from efface.erasure.shrinkage import optimal_linear_shrinkage
from efface.softmax import fit_softmax


def data(
    n: int = 400, d: int = 12, k: int = 4, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(k, (n,), generator=g)
    z = torch.nn.functional.one_hot(y, k).to(dtype)
    x = torch.randn(n, d, generator=g, dtype=dtype) @ torch.randn(d, d, generator=g, dtype=dtype)
    return x + 2 * z @ torch.randn(k, d, generator=g, dtype=dtype) + 5, z, y


def covariance(x: torch.Tensor, z: torch.Tensor, weight: torch.Tensor | None = None) -> float:
    w = torch.ones(len(x), 1, dtype=x.dtype) if weight is None else weight[:, None]
    x, z = x - (w * x).sum(0) / w.sum(), z - (w * z).sum(0) / w.sum()
    return float(((w * x).mT @ z / w.sum()).abs().max())


@pytest.mark.parametrize("method", ["leace", "orth"])
@pytest.mark.parametrize("shrinkage", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_covariance_is_left(method: str, shrinkage: bool, affine: bool, dtype: torch.dtype) -> None:
    x, z, _ = data(dtype=dtype)
    eraser = LeaceEraser.fit(x, z, method=method, shrinkage=shrinkage, affine=affine)
    assert covariance(x, z) > 0.1
    assert covariance(eraser(x), z) < 100 * torch.finfo(dtype).eps * float(x.abs().max())
    assert eraser.rank == 3  # one-hot columns sum to one
    if affine:
        torch.testing.assert_close(eraser(x).mean(0), x.mean(0))


def test_weighted_guardedness() -> None:
    x, z, _ = data()
    weight = torch.rand(len(x), dtype=x.dtype) + 0.1
    eraser = LeaceEraser.fit(x, z, weight=weight)
    assert covariance(eraser(x), z, weight) < 1e-13
    assert covariance(eraser(x), z) > 1e-3  # the guarantee holds under the weighted law only


def test_a_converged_probe_gains_nothing() -> None:
    x, z, y = data()
    before, after = (fit_softmax(v, y, l2=1e-9) for v in (x, LeaceEraser.fit(x, z)(x)))
    p = z.mean(0)
    entropy = float(-(p * p.log()).sum())
    assert after.converged
    assert entropy - before.loss > 0.1
    assert abs(entropy - after.loss) < 1e-9


def test_it_moves_x_least() -> None:
    """Theorem 4.3, by the first-order condition of a convex problem: E‖Px − x‖² over P with PC = 0.

    Its gradient (P − I)Σ must vanish along every change of P that keeps PC = 0, which are the D with DC = 0.
    """
    x, z, _ = data()
    centred = x - x.mean(0)
    sigma, C = centred.mT @ centred / len(x), centred.mT @ (z - z.mean(0)) / len(x)
    feasible = torch.linalg.svd(C)[0][:, 3:]
    eye = torch.eye(12, dtype=x.dtype)
    P = LeaceEraser.fit(x, z, shrinkage=False).P
    torch.testing.assert_close((P - eye) @ sigma @ feasible, torch.zeros(12, 9, dtype=x.dtype), atol=1e-10, rtol=0)
    orthogonal = LeaceEraser.fit(x, z, method="orth").P
    assert float(((orthogonal - eye) @ sigma @ feasible).abs().max()) > 0.1
    edit = [float((centred @ (Q - eye).mT).square().sum()) for Q in (P, orthogonal)]
    assert edit[0] < edit[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_duplicated_or_constant_column_does_no_harm(dtype: torch.dtype) -> None:
    x, z, _ = data(dtype=dtype)
    for wide in (torch.cat([x, x[:, :2]], 1), torch.cat([x, torch.full((len(x), 1), 7.0, dtype=dtype)], 1)):
        eraser = LeaceEraser.fit(wide, z, shrinkage=False)
        plain = LeaceEraser.fit(x, z, shrinkage=False)
        assert covariance(eraser(wide), z) < 1e3 * torch.finfo(dtype).eps * float(x.abs().max())
        tolerance = torch.finfo(dtype).eps ** 0.5
        torch.testing.assert_close(eraser(wide)[:, :12], plain(x), rtol=tolerance, atol=tolerance * 10)


def test_units_do_not_matter() -> None:
    x, z, _ = data()
    units = torch.logspace(-6, 6, 12, dtype=x.dtype)
    eraser = LeaceEraser.fit(x, z, shrinkage=False)
    scaled = LeaceEraser.fit(x * units, z, shrinkage=False)
    torch.testing.assert_close(scaled(x * units) / units, eraser(x), rtol=1e-7, atol=1e-7)


def test_streamed_is_batch_and_update_invalidates() -> None:
    x, z, _ = data()
    fitter = LeaceFitter(12, 4, dtype=x.dtype)
    fitter.update(x[:300], z[:300])
    partial = fitter.eraser
    assert fitter.eraser is partial
    fitter.update(x[300:], z[300:])
    torch.testing.assert_close(fitter.eraser.P, LeaceEraser.fit(x, z).P)
    assert not torch.allclose(fitter.eraser.P, partial.P)


def test_any_leading_dimensions_and_dtypes() -> None:
    x, z, _ = data()
    eraser = LeaceEraser.fit(x.view(4, 100, 12).flatten(0, 1), z)
    torch.testing.assert_close(eraser(x.view(4, 100, 12)).flatten(0, 1), eraser(x))
    assert eraser.to(torch.float32)(x.float()).dtype == torch.float32
    assert eraser(x.half()).dtype == torch.float16
    torch.testing.assert_close(eraser(x), x @ eraser.P.mT + eraser.bias @ (torch.eye(12) - eraser.P.mT))


def test_absolute_tolerance_warns_of_what_it_leaves() -> None:
    x, _, _ = data(n=3000)
    g = torch.Generator().manual_seed(2)
    rare = (torch.rand(3000, 1, generator=g) < 0.003).double()
    x = x + rare
    with pytest.warns(UserWarning, match=r"svd_tol=0.05 leaves 1 of 1 concept directions"):
        assert LeaceFitter.fit(x, rare, svd_tol=0.05).eraser.rank == 0
    relative = LeaceFitter.fit(x, rare, rtol=1e-4).eraser
    assert covariance(relative(x), rare) < 1e-13


def test_save_and_load(tmp_path: Path) -> None:
    x, z, _ = data()
    for affine in (True, False):
        eraser = LeaceEraser.fit(x, z, affine=affine)
        eraser.save(tmp_path / "eraser.safetensors")
        torch.testing.assert_close(LeaceEraser.load(tmp_path / "eraser.safetensors")(x), eraser(x))
    (tmp_path / "eraser.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="not a saved LeaceEraser"):
        LeaceEraser.load(tmp_path / "eraser.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"method": "svd"}, "method is 'svd'"), ({"svd_tol": 0.0}, "svd_tol is 0.0"), ({"rtol": 2.0}, "rtol is 2.0")],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LeaceFitter(3, 2, **options)


def test_shrinkage_keeps_the_trace_and_helps() -> None:
    g = torch.Generator().manual_seed(0)
    truth = torch.diag(torch.linspace(0.5, 2, 40, dtype=torch.float64))
    x = torch.randn(60, 40, generator=g, dtype=torch.float64) @ truth.sqrt()
    sample = x.mT @ x / 60
    shrunk = optimal_linear_shrinkage(sample, 60)
    assert float(shrunk.trace()) == pytest.approx(float(sample.trace()))
    assert torch.linalg.matrix_norm(shrunk - truth) < 0.5 * torch.linalg.matrix_norm(sample - truth)
    torch.testing.assert_close(optimal_linear_shrinkage(torch.zeros(3, 3), 5), torch.zeros(3, 3))
    torch.testing.assert_close(optimal_linear_shrinkage(torch.eye(3), 5), torch.eye(3))
    with pytest.raises(ValueError, match="must be square"):
        optimal_linear_shrinkage(torch.zeros(3, 2), 5)
