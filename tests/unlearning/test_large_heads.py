"""Heads of 1,000 classes and 512 features: a matrix of the square of their parameters would take 2 TB."""

import resource
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from efface.methods.debias import debias_head
from efface.softmax import SoftmaxObjective, fit_softmax
from efface.unlearning.bias import DemographicParity
from efface.unlearning.certified.objective import Link
from efface.unlearning.certified.published import PublishedRemoval
from efface.unlearning.certified.removal import CertifiedLogisticRegression
from efface.unlearning.influence import influence_on_bias
from efface.unlearning.inverse import head_inverse

K, D, N = 1000, 512, 2000
GIGABYTES = 2.0


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6 < GIGABYTES


def samples() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(N) % K
    return torch.randn(K, D, generator=g)[y] + torch.randn(N, D, generator=g), y


def objective(x: Tensor, y: Tensor) -> SoftmaxObjective:
    return SoftmaxObjective(x, y, n_classes=K, l2=0.1, penalise_bias=True)


def test_cholesky_of_a_large_head_is_refused_before_it_takes_the_memory() -> None:
    x, y = samples()
    f = objective(x[:10], y[:10])
    with pytest.raises(ValueError, match=r"the Hessian of 513,000 parameters takes 2,105 GB.*take 'auto' or 'cg'"):
        head_inverse(f, torch.full((10, K), 1 / K, dtype=torch.float64), solver="cholesky")


@pytest.mark.slow
def test_fit_and_influence_of_a_large_head() -> None:
    x, y = samples()
    fit = fit_softmax(x, y, n_classes=K, l2=0.1, tol=1e-6)
    assert fit.converged
    f = objective(x, y)
    inverse = head_inverse(f, f.at(fit.theta).probabilities, damping=1e-3)
    influence = influence_on_bias(f, fit.theta, DemographicParity(x, y % 2), inverse)
    assert influence.values.shape == (N,)
    assert bool(influence.values.isfinite().all())
    assert float(influence.values.abs().max()) > 0


@pytest.mark.slow
def test_edit_of_a_large_head() -> None:
    x, y = samples()
    head, minimum = debias_head(nn.Linear(D, K), x, y, x_cf=x[:100] + 1, y_cf=y[:100], l2=0.1)
    assert minimum.converged
    assert head.weight.shape == (K, D)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_certified_removal_from_a_large_head(loss: Link) -> None:
    x, y = samples()
    fitted = CertifiedLogisticRegression(1e-2, 1.0, 1e-4, loss=loss, residual=1e-4).fit(x, y, n_classes=K)
    assert fitted.remove([1, 2, 3]).removed == 3
    assert fitted.gradient_norm() <= 1e-4
    assert fitted.release().theta.shape == (D + 1, K)


@pytest.mark.slow
def test_published_removal_from_a_large_head() -> None:
    x, y = samples()
    fitted = PublishedRemoval(1e-2, 0.5, 1e6, 1e-4, tol=1e-4).fit(x, y, n_classes=K)
    assert fitted.remove([1, 2, 3]).removed == 3
    assert fitted.gradient_norm() <= fitted.spent
