"""Sparse matrices: the same statistics and erasers as from the dense ones, without forming them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

import efface
from efface.moments import Moments
from efface.products import SparseRows


def matrix(n: int = 400, d: int = 12, *, mean: float = 0.0) -> tuple[Any, torch.Tensor]:
    """Draw a matrix of which a fifth is not 0, and labels that three columns tell of; entries are about `mean`."""
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, n)
    dense = np.where(rng.random((n, d)) < 0.2, rng.normal(mean, 1, (n, d)), 0)
    dense[:, :3] += np.eye(3)[z]
    return sparse.csr_matrix(dense), torch.from_numpy(z)


@pytest.mark.parametrize("mean", [0.0, 50.0])
@pytest.mark.parametrize("weights", ["importance", "frequency"])
@pytest.mark.parametrize("track_xx", [True, False])
def test_moments_of_a_sparse_matrix_are_those_of_the_dense(mean: float, weights: Any, track_xx: bool) -> None:
    x, z = matrix(mean=mean)
    dense = torch.from_numpy(x.toarray())
    weight = torch.from_numpy(np.random.default_rng(1).integers(1, 4, len(z))).double()
    for concept in (z, torch.nn.functional.one_hot(z).double()):
        pair = [Moments(12, 3, dtype=torch.float64, track_xx=track_xx, weights=weights) for _ in range(2)]
        pair[0].update(SparseRows.read(x[:300], "x"), concept[:300], weight[:300])
        pair[0].update(dense[300:], concept[300:], weight[300:])
        pair[1].update(dense, concept, weight)
        ours, expected = pair
        assert (ours.count, ours.n_eff, ours.has_labels) == (expected.count, expected.n_eff, expected.has_labels)
        torch.testing.assert_close(ours.mean_x, expected.mean_x)
        torch.testing.assert_close(ours.cov_xz(), expected.cov_xz(), atol=1e-11, rtol=1e-9)
        torch.testing.assert_close(ours.cov_zz(), expected.cov_zz())
        torch.testing.assert_close(ours.var_x(), expected.var_x())
        if track_xx:
            torch.testing.assert_close(ours.cov_xx(), expected.cov_xx(), atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array])
def test_erasers_of_a_sparse_matrix_are_those_of_the_dense(kind: Any) -> None:
    x, z = matrix()
    dense = torch.from_numpy(x.toarray())
    for method in ("leace", "orth"):
        ours = efface.LeaceEraser.fit(kind(x), z, method=method)
        expected = efface.LeaceEraser.fit(dense, z, method=method)
        torch.testing.assert_close(ours.P, expected.P, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(
        efface.OracleEraser.fit(kind(x), z)(dense, z), efface.OracleEraser.fit(dense, z)(dense, z)
    )
    for rank in (1, 2):
        matrices = [efface.RlaceEraser.fit(m, z, rank=rank, solver="squared").P for m in (kind(x), dense)]
        torch.testing.assert_close(*matrices, atol=1e-8, rtol=1e-8)


def test_sparse_integers_and_float32_are_read() -> None:
    x, z = matrix()
    flags = (x > 0).astype(np.int8)
    eraser = efface.LeaceEraser.fit(flags, z)
    assert eraser.proj_left.dtype == torch.float32
    expected = efface.LeaceEraser.fit(torch.from_numpy(flags.toarray()).double(), z)
    torch.testing.assert_close(eraser.P.double(), expected.P, atol=1e-5, rtol=1e-5)


def test_sparse_matrix_that_cannot_be_read_is_refused() -> None:
    x, z = matrix()
    with pytest.raises(ValueError, match="x has NaN or infinite values"):
        efface.LeaceEraser.fit(x * np.nan, z)
    with pytest.raises(ValueError, match="x is a sparse matrix of complex128"):
        efface.LeaceEraser.fit(x * 1j, z)
    with pytest.raises(ValueError, match=r"x has shape \[400, 12\]"):
        efface.LeaceEraser.fit(x, z[:-1])
    with pytest.raises(ValueError, match=r"x is a sparse matrix, which is not taken here: give x.toarray\(\)"):
        efface.QuadraticEraser.fit(x, z)
    with pytest.raises(ValueError, match=r"x is sparse, which solver='sgd' does not take"):
        efface.RlaceEraser.fit(x, z, solver="sgd")
    with pytest.raises(ValueError, match="z has 1 NaN or infinite values"):
        efface.LeaceEraser.fit(x, torch.where(torch.arange(400) == 7, torch.nan, 1.0))
    fitter = efface.LeaceFitter(13, 3)
    with pytest.raises(ValueError, match="its last dimension must be 13"):
        fitter.update(x, z)
    assert fitter.n == 0


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="DATA_DIR is not set")
def test_one_hot_columns_of_adult_give_the_eraser_of_the_dense() -> None:
    pd = pytest.importorskip("pandas")
    from sklearn.preprocessing import OneHotEncoder

    from efface.sklearn import LEACE, RLACE, SAL, OracleLEACE

    (file, *_) = sorted(Path(os.environ["DATA_DIR"]).rglob("adult.data"))
    people = pd.read_csv(file, header=None, skipinitialspace=True, nrows=3000)
    sex = people.pop(9)
    x = OneHotEncoder(min_frequency=20).fit_transform(people.select_dtypes(exclude="number").astype(str))
    for transformer in (LEACE(), SAL(), OracleLEACE(), RLACE()):
        ours = transformer.fit(x, sensitive_features=sex).transform(x)
        expected = transformer.fit(x.toarray(), sensitive_features=sex).transform(x.toarray())
        np.testing.assert_allclose(ours, expected, atol=1e-6)
