"""Obliviator: what its functions are guarded from, what networks read afterwards, and what a file of it holds."""

from pathlib import Path

import pytest
import torch
from mlxtend.data import iris_data
from torch import Tensor
from torch.nn import functional

from efface.erasure.hsic import FourierFeatures, cross_covariance, guarded_functions
from efface.erasure.obliviator import ObliviatorEraser

SMALL = {"width": 16, "features": 60, "steps": 5}


def iris() -> tuple[Tensor, Tensor]:
    x, z = iris_data()
    return torch.tensor(x), torch.tensor(z)


def test_fourier_features_are_a_gaussian_kernel(generator: torch.Generator) -> None:
    x, _ = iris()
    features = FourierFeatures.draw(x, 20_000, generator)
    phi = features(x[::10])
    bandwidth = torch.pdist(x).median()
    kernel = (-torch.cdist(x[::10], x[::10]).square() / (2 * bandwidth**2)).exp()
    torch.testing.assert_close(phi @ phi.mT, kernel, rtol=0, atol=0.05)


def test_functions_have_no_covariance_with_the_concept_and_tell_most_of_the_rest(generator: torch.Generator) -> None:
    x, z = iris()
    concept, w = functional.one_hot(z).double(), 1 + torch.arange(150).double() % 3
    phi = FourierFeatures.draw(x, 40, generator)(x)
    functions = guarded_functions(phi, concept, [(1.0, x)], w, 3)
    torch.testing.assert_close(functions.mT @ functions, torch.eye(3, dtype=torch.float64))
    assert float(cross_covariance(phi @ functions, concept, w).abs().max()) < 1e-12
    # Other guarded functions, as many of them, have no larger covariance with x.
    null = torch.linalg.svd(cross_covariance(phi, concept, w))[0][:, 2:]
    value = cross_covariance(x, phi @ functions, w).norm()
    for _ in range(20):
        other = null @ torch.linalg.qr(torch.randn(38, 3, generator=generator, dtype=torch.float64))[0]
        assert cross_covariance(x, phi @ other, w).norm() < value
    assert guarded_functions(phi, concept, [(1.0, x)], w, 60).shape == (40, 60)


def test_network_reads_much_less_after_some_iterations() -> None:
    """Of iris' kinds, with the target whether petals are long within the kind."""
    x, z = iris()
    long = torch.stack([x[z == kind, 2].median() for kind in range(3)])[z] < x[:, 2]
    eraser = ObliviatorEraser.fit(x, z, long, iterations=4, width=32, features=100, steps=20)
    first, *_, last = (reading.information for reading in eraser.readings)
    assert first > 1.2
    assert last < 0.5 * first
    assert len(list(eraser.steps(x))) == len(eraser.readings) - 1


def test_fit_is_deterministic_and_ignores_units_and_the_scale_of_weights() -> None:
    x, z = iris()
    eraser = ObliviatorEraser.fit(x, z, iterations=1, **SMALL)
    again = ObliviatorEraser.fit(x, z, iterations=1, weight=torch.ones(150), **SMALL)
    assert torch.equal(eraser(x), again(x))
    other = ObliviatorEraser.fit(x, z, iterations=1, seed=1, **SMALL)
    assert not torch.allclose(eraser(x), other(x))
    torch.testing.assert_close(eraser(x).mean(0), x.mean(0))


@pytest.mark.parametrize("iterations", [1, 2])
def test_file_holds_every_iteration(tmp_path: Path, iterations: int) -> None:
    x, z = iris()
    eraser = ObliviatorEraser.fit(x, z, iterations=iterations, **SMALL)
    eraser.save(tmp_path / "eraser")
    loaded = ObliviatorEraser.load(tmp_path / "eraser")
    assert torch.equal(loaded(x), eraser(x))
    assert torch.equal(eraser(x.view(3, 50, 4)).view(150, 4), eraser(x))
    assert eraser(x[:0]).shape == (0, 4)


def test_bad_input() -> None:
    x, z = iris()
    with pytest.raises(ValueError, match="z is constant"):
        ObliviatorEraser.fit(x, torch.zeros_like(z))
    with pytest.raises(ValueError, match=r"classes \[2\] have fewer than two samples of positive weight"):
        ObliviatorEraser.fit(x[:101], z[:101])
    with pytest.raises(ValueError, match="iterations is 0, but must be at least 1"):
        ObliviatorEraser.fit(x, z, iterations=0)
    with pytest.raises(ValueError, match="features is 3, but must be more than the 3 classes of z"):
        ObliviatorEraser.fit(x, z, features=3)
    with pytest.raises(ValueError, match=r"y has shape \[149\], but must be one label for each of the 150 rows of x"):
        ObliviatorEraser.fit(x, z, z[1:])
    with pytest.raises(ValueError, match=r"x has shape \[150, 3\], but its last dimension must be 4"):
        ObliviatorEraser.fit(x, z, iterations=1, **SMALL)(x[:, :3])
