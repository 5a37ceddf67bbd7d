"""Quadratic erasure without labels: where it is that with labels, what it leaves elsewhere, and what its file holds."""

from pathlib import Path

import pytest
import torch
from mlxtend.data import iris_data
from sklearn.datasets import load_digits
from torch import Tensor

from efface.erasure.leace import LeaceEraser
from efface.erasure.quadratic import QuadraticEraser
from efface.erasure.quadratic_free import PosteriorQuadraticEraser
from efface.evaluation.probes import Standardiser, mlp_probe


def iris() -> tuple[Tensor, Tensor]:
    x, z = iris_data()
    return torch.tensor(x), torch.tensor(z)


def test_where_the_posterior_is_sure_it_is_the_eraser_with_labels() -> None:
    """Setosa is far from the two other kinds."""
    x, z = iris()
    z = (z > 0).long()
    eraser = PosteriorQuadraticEraser.fit(x, z)
    sure = eraser.posterior(x).gather(1, z[:, None])[:, 0] > 1 - 1e-6
    assert sure.double().mean() > 0.9
    with_labels = QuadraticEraser.fit(x, z, weighted_mean=True)
    torch.testing.assert_close(eraser(x)[sure], with_labels(x, z)[sure], rtol=1e-4, atol=1e-4)
    assert eraser.readings[0].accuracy == 1
    assert eraser.readings[0].information == pytest.approx(0.9183, abs=1e-3)  # the entropy of 1/3


def test_posterior_is_that_of_the_gaussian_mixture() -> None:
    x, z = iris()
    weight = torch.where(z == 2, 3.0, 1.0).double()
    eraser = PosteriorQuadraticEraser.fit(x, z, weight=weight)
    densities = []
    for mean, whitening, share in zip(
        eraser.class_means[0], eraser.whitening[0], torch.tensor([0.2, 0.2, 0.6]), strict=True
    ):
        normal = torch.distributions.MultivariateNormal(mean, precision_matrix=whitening.mT @ whitening)
        densities.append(normal.log_prob(x).exp() * share)
    joint = torch.stack(densities, 1)
    torch.testing.assert_close(eraser.posterior(x), joint / joint.sum(1, keepdim=True))
    moved = [QuadraticEraser.fit(x, z, weight=weight, weighted_mean=True).optimal_transport(k, x) for k in range(3)]
    torch.testing.assert_close(eraser(x), torch.einsum("nk,knd->nd", eraser.posterior(x), torch.stack(moved)))


def test_network_reads_much_less_of_other_samples_than_after_leace() -> None:
    """Of ten handwritten digits. Both are measured: neither has a guarantee against this network."""
    x, z = load_digits(return_X_y=True)
    x, z = torch.tensor(x, dtype=torch.float32), torch.tensor(z)
    fitted, others = torch.arange(len(x)) % 2 == 0, torch.arange(len(x)) % 2 == 1
    free, leace = PosteriorQuadraticEraser.fit(x[fitted], z[fitted]), LeaceEraser.fit(x[fitted], z[fitted])
    read = []
    for eraser in (leace, free):
        erased = eraser(x[others])
        read.append(mlp_probe(Standardiser.of(erased)(erased), z[others], z[others], 10).information)
    assert read[1] < 0.5 * read[0]


def test_each_iteration_is_fitted_on_what_is_left() -> None:
    x, z = iris()
    one, two = (PosteriorQuadraticEraser.fit(x, z, iterations=t) for t in (1, 2))
    first, second = two.steps(x)
    torch.testing.assert_close(first, one(x))
    torch.testing.assert_close(second, PosteriorQuadraticEraser.fit(first, z)(first))
    assert two.readings[0].information > two.readings[1].information
    assert two.readings[0].shift == 0 < two.readings[1].shift


@pytest.mark.parametrize("iterations", [1, 2])
def test_file_holds_every_iteration(tmp_path: Path, iterations: int) -> None:
    x, z = iris()
    eraser = PosteriorQuadraticEraser.fit(x, z, iterations=iterations)
    eraser.save(tmp_path / "eraser")
    loaded = PosteriorQuadraticEraser.load(tmp_path / "eraser")
    assert torch.equal(loaded(x), eraser(x))
    assert torch.equal(eraser(x.view(3, 50, 4)).view(150, 4), eraser(x))
    assert eraser(x[:0]).shape == (0, 4)


def test_constant_features_do_not_make_posteriors_infinite() -> None:
    x, z = iris()
    x = torch.cat([x, torch.ones(150, 1)], 1)
    eraser = PosteriorQuadraticEraser.fit(x, z)
    assert bool(eraser(x).isfinite().all())
    assert bool(eraser(10 * x).isfinite().all())


def test_bad_input() -> None:
    x, z = iris()
    with pytest.raises(ValueError, match="z is constant"):
        PosteriorQuadraticEraser.fit(x, torch.zeros_like(z))
    with pytest.raises(ValueError, match=r"classes \[2\] have fewer than two samples of positive weight"):
        PosteriorQuadraticEraser.fit(x[:101], z[:101])
    with pytest.raises(ValueError, match="iterations is 0, but must be at least 1"):
        PosteriorQuadraticEraser.fit(x, z, iterations=0)
    with pytest.raises(ValueError, match=r"x has shape \[150, 3\], but its last dimension must be 4"):
        PosteriorQuadraticEraser.fit(x, z)(x[:, :3])
