import pytest
import torch
from tests.erasure.test_leace import covariance
from tests.erasure.test_rlace import mixture, require_projection

from efface.erasure.projections import MeanProjectionEraser, PcaEraser, RandomProjectionEraser


def test_mean_projection_makes_all_class_means_equal() -> None:
    x, y = mixture(k=4)
    eraser = MeanProjectionEraser.fit(x, y)
    require_projection(eraser, 3)
    means = torch.stack([eraser(x)[y == label].mean(0) for label in range(4)])
    torch.testing.assert_close(means, eraser(x).mean(0).expand(4, -1))
    one = MeanProjectionEraser.fit(x, y, rank=1)
    require_projection(one, 1)
    z = torch.nn.functional.one_hot(y).double()
    assert 0.01 < covariance(one(x), z) < covariance(x, z)
    assert torch.linalg.matrix_norm(one.proj_right @ eraser.P) < 1e-10  # one of those that the whole removes


def test_pca_uses_all_differences_between_classes() -> None:
    x, y = mixture(n=120, k=3)
    weight = torch.randint(1, 4, (120,), generator=torch.Generator().manual_seed(0)).double()
    for w in (None, weight):
        repeated = x if w is None else x.repeat_interleave(w.long(), 0)
        labels = y if w is None else y.repeat_interleave(w.long())
        i, j = (labels[:, None] != labels[None]).nonzero(as_tuple=True)
        differences = repeated[i] - repeated[j]
        leading = torch.linalg.svd(differences, full_matrices=False)[2][:2]
        eraser = PcaEraser.fit(x, y, rank=2, weight=w)
        require_projection(eraser, 2)
        torch.testing.assert_close(eraser.P, torch.eye(12, dtype=x.dtype) - leading.mT @ leading, atol=1e-9, rtol=0)


def test_random_subspaces_depend_on_the_seed() -> None:
    x, _ = mixture(dtype=torch.float32)
    eraser = RandomProjectionEraser.fit(x, rank=3, seed=1)
    require_projection(eraser, 3)
    torch.testing.assert_close(eraser.P, RandomProjectionEraser.fit(x, rank=3, seed=1).P)
    assert (eraser.P - RandomProjectionEraser.fit(x, rank=3, seed=2).P).abs().max() > 0.01
    torch.testing.assert_close(eraser(x).mean(0), x.mean(0))


@pytest.mark.parametrize("kind", [MeanProjectionEraser, PcaEraser, RandomProjectionEraser])
def test_bad_input(kind: type) -> None:
    """Covers faults C4."""
    x, y = mixture()
    with pytest.raises(ValueError, match="rank is 12, but must lie in 1 … 11"):
        kind.fit(x, y, rank=12)
    if kind is not RandomProjectionEraser:
        with pytest.raises(ValueError, match="single class"):
            kind.fit(x, torch.zeros(600, dtype=torch.long), rank=1)
        with pytest.raises(ValueError, match="one label for each row"):
            kind.fit(x, y[:3], rank=1)
