from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from efface.erasure.inputs import concept_matrix
from efface.erasure.leace import LeaceEraser, LeaceFitter, erase_in_sequence, erase_jointly
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
def test_covariance_is_zero_after_erasure(method: str, shrinkage: bool, affine: bool, dtype: torch.dtype) -> None:
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


def test_converged_probe_is_no_better_than_a_constant() -> None:
    x, z, y = data()
    before, after = (fit_softmax(v, y, l2=1e-9) for v in (x, LeaceEraser.fit(x, z)(x)))
    p = z.mean(0)
    entropy = float(-(p * p.log()).sum())
    assert after.converged
    assert entropy - before.loss > 0.1
    assert abs(entropy - after.loss) < 1e-9


def test_leace_moves_x_the_least() -> None:
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
def test_duplicated_and_constant_columns_do_no_harm(dtype: torch.dtype) -> None:
    x, z, _ = data(dtype=dtype)
    for wide in (torch.cat([x, x[:, :2]], 1), torch.cat([x, torch.full((len(x), 1), 7.0, dtype=dtype)], 1)):
        eraser = LeaceEraser.fit(wide, z, shrinkage=False)
        plain = LeaceEraser.fit(x, z, shrinkage=False)
        assert covariance(eraser(wide), z) < 1e3 * torch.finfo(dtype).eps * float(x.abs().max())
        tolerance = torch.finfo(dtype).eps ** 0.5
        torch.testing.assert_close(eraser(wide)[:, :12], plain(x), rtol=tolerance, atol=tolerance * 10)


@pytest.mark.parametrize("shrinkage", [False, "correlation"])
def test_units_do_not_matter(shrinkage: Any) -> None:
    x, z, _ = data()
    units = torch.logspace(-6, 6, 12, dtype=x.dtype)
    eraser = LeaceEraser.fit(x, z, shrinkage=shrinkage)
    scaled = LeaceEraser.fit(x * units, z, shrinkage=shrinkage)
    torch.testing.assert_close(scaled(x * units) / units, eraser(x), rtol=1e-7, atol=1e-7)


def test_save_and_load(tmp_path: Path) -> None:
    """Covers faults B6."""
    x, z, _ = data()
    for affine in (True, False):
        eraser = LeaceEraser.fit(x, z, affine=affine)
        eraser.save(tmp_path / "eraser.safetensors")
        torch.testing.assert_close(LeaceEraser.load(tmp_path / "eraser.safetensors")(x), eraser(x))
    (tmp_path / "eraser.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="not a saved LeaceEraser"):
        LeaceEraser.load(tmp_path / "eraser.safetensors")


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


# --- Classifiers, concepts and data of every kind ---


def test_svm_and_logistic_regression_are_no_better_than_a_constant() -> None:
    """Guardedness is against every convex loss: with a penalty, the unique best linear predictor is then w = 0."""
    x, _, y = data()
    binary = (y > 1).long()
    for model in (LinearSVC(C=1.0, dual=False, tol=1e-10), LogisticRegression(tol=1e-10, max_iter=10_000)):
        before = model.fit(x.numpy(), binary.numpy()).coef_
        after = model.fit(LeaceEraser.fit(x, binary)(x).numpy(), binary.numpy()).coef_
        assert np.abs(before).max() > 1e-2
        assert np.abs(after).max() < 1e-6 * np.abs(before).max()


@pytest.mark.parametrize("kind", ["labels", "one-hot", "multi-label", "continuous", "binary column", "boolean"])
def test_concepts_of_every_kind(kind: str) -> None:
    x, onehot, y = data()
    z = {
        "labels": y,
        "one-hot": onehot,
        "multi-label": torch.stack([y > 0, y % 2 == 0], 1).double(),
        "continuous": x[:, :3] ** 2,
        "binary column": onehot[:, 0],
        "boolean": y > 1,
    }[kind]
    eraser = LeaceEraser.fit(x, z)
    expected = {"labels": 3, "one-hot": 3, "multi-label": 2, "continuous": 3, "binary column": 1, "boolean": 1}
    assert eraser.rank == expected[kind]
    assert covariance(eraser(x), concept_matrix(z).double()) < 1e-11


def test_one_binary_column_gives_the_eraser_of_two_one_hot_columns() -> None:
    x, _, y = data()
    binary = (y > 1).long()
    two = torch.nn.functional.one_hot(binary, 2)
    torch.testing.assert_close(LeaceEraser.fit(x, binary).P, LeaceEraser.fit(x, two).P)
    fitter = LeaceFitter(12, 2, dtype=x.dtype).update(x, binary)  # labels where two columns are expected
    torch.testing.assert_close(fitter.eraser.P, LeaceEraser.fit(x, two).P)


@pytest.mark.parametrize("method", ["leace", "orth"])
def test_complex_features(method: str) -> None:
    x, z, _ = data()
    xc = torch.complex(x, x.flip(1) + z @ torch.ones(4, 12, dtype=x.dtype))
    eraser = LeaceEraser.fit(xc, z.to(xc.dtype), method=method, shrinkage=False)
    assert eraser.P.is_complex()
    erased = eraser(xc)
    centred = erased - erased.mean(0)
    assert (centred.mH @ (z - z.mean(0)).to(xc.dtype)).abs().max() / len(x) < 1e-12
    # A complex concept: only E[x̄ z] is annihilated; pass its parts for the rest.
    zc = torch.complex(x[:, :1], z[:, :1])
    parts = torch.cat([zc.real, zc.imag], 1).to(xc.dtype)
    erased = LeaceEraser.fit(xc, parts, method=method, shrinkage=False)(xc)
    centred = erased - erased.mean(0)
    for concept in (zc, zc.conj()):
        assert (centred.mH @ (concept - concept.mean(0))).abs().max() / len(x) < 1e-12


def test_several_concepts_jointly_and_in_sequence() -> None:
    x, z, y = data()
    other = x[:, :2] + torch.randn(len(x), 2, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    jointly = erase_jointly(x, [y, other], shrinkage=False)
    in_sequence = erase_in_sequence(x, [y, other], shrinkage=False)
    for eraser in (jointly, in_sequence):
        assert eraser.rank == 5
        assert covariance(eraser(x), z) < 1e-12
        assert covariance(eraser(x), other) < 1e-12
        torch.testing.assert_close(eraser(x).mean(0), x.mean(0))
    # In the whitened space both project off the same span; shrinkage, which the second fit repeats, tells them apart.
    torch.testing.assert_close(in_sequence(x), jointly(x))
    shrunk = erase_in_sequence(x, [other, y])
    assert covariance(shrunk(x), z) < 1e-12
    assert covariance(shrunk(x), other) < 1e-12
    edits = [float((eraser(x) - x).square().sum()) for eraser in (jointly, shrunk)]
    assert edits[0] < edits[1]


@pytest.mark.parametrize("affine", [(True, True), (False, True), (True, False), (False, False)])
def test_composition(affine: tuple[bool, bool]) -> None:
    x, z, _ = data()
    one, other = (
        LeaceEraser.fit(x, concept, affine=flag) for concept, flag in zip((z, x[:, :2] ** 2), affine, strict=True)
    )
    torch.testing.assert_close(one.then(other)(x), other(one(x)))
    with pytest.raises(ValueError, match="acts on 11 features"):
        one.then(LeaceEraser.fit(x[:, 1:], z))


# --- Degenerate and bad input ---


@pytest.mark.filterwarnings("ignore:the concept covaries")  # of so few columns
@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(2, 40),
    d=st.integers(1, 12),
    k=st.integers(1, 5),
    rank=st.integers(1, 12),
    method=st.sampled_from(["leace", "orth"]),
    shrinkage=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_covariance_is_zero_for_all_shapes_and_ranks(
    n: int, d: int, k: int, rank: int, method: str, shrinkage: bool, dtype: torch.dtype, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, min(rank, d), generator=g, dtype=dtype) @ torch.randn(min(rank, d), d, generator=g, dtype=dtype)
    z = torch.randn(n, k, generator=g, dtype=dtype)
    eps = torch.finfo(dtype).eps
    eraser = LeaceFitter.fit(x, z, method=method, shrinkage=shrinkage, rtol=10 * eps).eraser
    erased = eraser(x)
    assert erased.isfinite().all()
    assert eraser.rank <= min(d, k, n - 1)
    # Few points in many dimensions whiten to a simplex, at a condition of up to 1/√eps.
    assert covariance(erased, z) <= 30 * eps**0.5 * float(x.abs().max() * z.abs().max())
    if shrinkage or method == "orth":
        assert covariance(erased, z) <= 1e3 * eps * float(x.abs().max() * z.abs().max())


def test_constant_concept_changes_nothing() -> None:
    x, _, _ = data()
    for z in (torch.ones(len(x)), torch.full((len(x),), 3), torch.ones(len(x), 2)):
        eraser = LeaceEraser.fit(x, z.to(x.dtype) if z.is_floating_point() else z)
        assert eraser.rank == 0
        assert torch.equal(eraser(x), x)


def test_fewer_samples_than_features() -> None:
    """Covers audit C1: on the data fitted on the result is that of any pseudo-inverse."""
    x, z, _ = data(n=8)
    for shrinkage in (True, False):
        assert covariance(LeaceEraser.fit(x, z, shrinkage=shrinkage)(x), z) < 1e-10


@pytest.mark.parametrize("seed", range(20))
def test_nearly_singular_covariances_are_recognised(seed: int) -> None:
    """A Cholesky factor of a singular matrix may exist and be wrong (in about a third of tries, P then 36 % off)."""
    g = torch.Generator().manual_seed(seed)
    x, z, _ = data(dtype=torch.float32)
    copies = x[:, torch.randint(12, (3,), generator=g)] * torch.rand(3, generator=g)
    wide = torch.cat([x, copies], 1)
    erased = LeaceEraser.fit(wide, z, shrinkage=False)(wide)
    torch.testing.assert_close(erased[:, :12], LeaceEraser.fit(x, z, shrinkage=False)(x), atol=2e-3, rtol=0)


def test_shrinkage_counts_weighted_samples_by_their_effective_number() -> None:
    x, z, _ = data(n=40)
    weight = torch.rand(40, dtype=x.dtype) ** 4
    fitter = LeaceFitter.fit(x, z, weight=weight)
    sample = torch.from_numpy(np.cov(x, rowvar=False, aweights=weight, ddof=0))
    n_eff = weight.sum() ** 2 / weight.square().sum()
    torch.testing.assert_close(fitter.sigma_xx, optimal_linear_shrinkage(sample, n_eff))


def test_concept_outside_the_numerical_range_is_erased() -> None:
    """The two ways in which a covariance is no help: nearly collinear columns that tell z apart, and white features."""
    g = torch.Generator().manual_seed(0)
    z = (torch.rand(1000, 1, generator=g) > 0.5).float()
    x = torch.randn(1000, 8, generator=g)
    x[:, 1] = x[:, 0] + 1e-3 * (z + 0.1 * torch.randn(1000, 1, generator=g))[:, 0]
    erased = LeaceFitter.fit(x, z, shrinkage=False, rtol=1e-6).eraser(x)
    assert covariance(x, z) > 1e-2
    assert covariance(erased, z) < 1e-6
    shifted = torch.randn(2000, 60, generator=g, dtype=torch.float64)
    y = torch.arange(2000) % 2
    shifted[:, 0] += y
    u, _, _ = torch.linalg.svd(shifted - shifted.mean(0), full_matrices=False)
    white = u * 2000**0.5
    fitter = LeaceFitter.fit(white, y)
    assert torch.linalg.eigvalsh(fitter.sigma_xx).min() > 0
    assert covariance(white, y[:, None].double()) > 0.05
    assert covariance(fitter.eraser(white), y[:, None].double()) < 1e-10
