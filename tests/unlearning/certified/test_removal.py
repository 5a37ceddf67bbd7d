import os
from itertools import pairwise
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from tests.unlearning.certified.models import LAM, N, model, samples, true_norm, unfitted

from efface.unlearning.certified import removal
from efface.unlearning.certified.removal import CertifiedLogisticRegression, Removal
from efface.unlearning.certified.rows import augmented

# Removal.


@pytest.mark.parametrize(("k", "loss"), [(2, "logistic"), (3, "logistic"), (3, "softmax")])
def test_every_removal_reaches_the_residual(k: int, loss: Any) -> None:
    fitted = model(k, loss=loss)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    for batch in [*order[:20].split(1), *order[20:380].split(60)]:
        assert fitted.remove(batch).removed == len(batch)
        norm = true_norm(fitted.exact_theta, k, fitted.remaining, loss=loss)
        assert norm <= fitted.residual
        assert fitted.gradient_norm() == pytest.approx(norm, rel=1e-3, abs=1e-11)
    assert sorted(fitted.remaining.tolist() + order[:380].tolist()) == list(range(N))


@pytest.mark.parametrize("residual", [1e-6, 1e-2, 1.0])
def test_distance_from_a_model_that_never_saw_the_samples_is_hidden_by_the_noise(residual: float) -> None:
    x, y = samples()
    fitted, never = model(residual=residual), unfitted(residual=residual).fit(x[30:], y[30:])
    for i in range(30):
        fitted.remove([i])
    distance = float((fitted.exact_theta - never.exact_theta).norm())
    certificate = fitted.release().certificate
    assert certificate == never.release().certificate, "a certificate tells nothing of what was removed"
    assert certificate.n == N - 30
    assert distance <= 2 * residual / (LAM * (N - 30))
    assert distance <= certificate.noise * removal_shift(certificate.epsilon, certificate.delta)


def removal_shift(epsilon: float, delta: float) -> float:
    """The shift at which δ is reached, by bisection of its definition and not by `allowed_shift`."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    def excess(shift: float) -> float:
        first, second = norm.cdf([shift / 2 - epsilon / shift, -shift / 2 - epsilon / shift])
        return float(first - torch.tensor(epsilon).exp() * second - delta)

    return float(brentq(excess, 1e-6, 50))


def test_distance_falls_as_lam_grows() -> None:
    distances = []
    for lam in (1e-3, 1e-2, 1e-1, 1.0):
        fitted = model(lam=lam, residual=1e-2)
        fitted.remove(range(5))
        exact = model(lam=lam, residual=1e-9)
        exact.remove(range(5))
        distance = float((fitted.exact_theta - exact.exact_theta).norm())
        assert distance <= 1.1e-2 / (lam * (N - 5))
        distances.append(1e-2 / (lam * (N - 5)))
    assert all(later < sooner / 3 for sooner, later in pairwise(distances))


def test_batch_equals_its_members_one_by_one() -> None:
    one_by_one, batch = model(), model()
    for i in range(30):
        one_by_one.remove([i])
    assert batch.remove(range(30)).removed == 30
    distance = float((one_by_one.exact_theta - batch.exact_theta).norm())
    assert distance <= 2e-6 / (LAM * (N - 30))
    assert torch.equal(one_by_one.remaining, batch.remaining)


def test_removed_sample_is_wiped_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[removal.Rows] = []
    monkeypatch.setattr(
        "efface.unlearning.certified.regression.Rows", lambda *a, **k: made.append(removal.Rows(*a, **k)) or made[-1]
    )
    x, _ = samples()
    fitted = model()
    fitted.remove([3, 399, 17])
    memory = made[0].x
    for i in (3, 17, 399):
        assert float((memory - augmented(x[i : i + 1], 0.0)).norm(dim=1).min()) > 1e-3
    torch.testing.assert_close(memory[:397].sum(0), augmented(x[fitted.remaining], 0.0).sum(0))


def state(fitted: CertifiedLogisticRegression) -> tuple[Any, ...]:
    return fitted.exact_theta.tolist(), fitted.remaining.tolist(), fitted.gradient_norm()


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([5, 6, 5], ValueError, "occurs twice"),
        ([1], ValueError, "removed before"),
        ([N], IndexError, "samples are 0 … 399"),
        ([-1], IndexError, "run from -1"),
        ([0, *range(2, N)], ValueError, "all 399 samples"),
        ([0.5], ValueError, "integer numbers"),
        (torch.ones(N, dtype=torch.bool), ValueError, "integer numbers"),
    ],
)
def test_bad_requests_leave_the_model_as_it_was(indices: Any, error: type[Exception], message: str) -> None:
    fitted = model()
    fitted.remove([1])
    before = state(fitted)
    with pytest.raises(error, match=message):
        fitted.remove(indices)
    assert state(fitted) == before
    assert fitted.remove([]) == Removal(0, 0, 0)
    assert state(fitted) == before


def test_failed_refinement_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = model()
    before = fitted.exact_theta, fitted.remaining
    with monkeypatch.context() as patch:
        patch.setattr("efface.newton.minimise", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fitted.remove(range(200))
    assert torch.equal(fitted.exact_theta, before[0])
    assert torch.equal(fitted.remaining, before[1])
    fitted.remove([7])
    assert fitted.gradient_norm() <= fitted.residual


# Releases.


def test_each_release_has_noise_of_its_own() -> None:
    for generator in (None, torch.Generator().manual_seed(0)):
        fitted = model(generator=generator, residual=1e-2)
        fitted.remove([3])
        exact = fitted.exact_theta
        releases = [fitted.release() for _ in range(500)]
        noise = torch.stack([release.theta - exact for release in releases])
        assert len({tuple(row.flatten().tolist()) for row in noise}) == len(releases)
        size = releases[0].certificate.noise
        assert float(noise.std()) == pytest.approx(size, rel=0.05)
        assert float(noise.mean().abs()) < size / 10
        assert torch.equal(fitted.exact_theta, exact)


def test_certificate_counts_releases_since_the_first_removal() -> None:
    fitted = model(delta=1e-3)
    assert [fitted.release().certificate.releases for _ in range(3)] == [1, 2, 3]
    fitted.remove([0])
    first = fitted.release().certificate
    assert first.releases == 1
    assert first.joint_delta == pytest.approx(1e-3)
    fitted.remove([1])
    second = fitted.release().certificate
    assert second.releases == 2
    assert second.joint_delta == first.delta_of(2)
    # More than one release, and less than a sum of such over ε.
    assert 2e-3 < second.joint_delta < 1e-1


# Threads.


def test_removals_from_several_threads_all_happen() -> None:
    """Covers faults A3."""
    for trial in range(20):
        fitted = model(residual=1e-3)
        start, reports = Barrier(4), dict[int, Removal]()

        def forget(i: int) -> None:
            start.wait()  # noqa: B023
            reports[i] = fitted.remove([i])  # noqa: B023

        numbers = range(trial, trial + 40, 10)
        threads = [Thread(target=forget, args=(i,)) for i in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {i: report.removed for i, report in reports.items()} == dict.fromkeys(numbers, 1)
        assert fitted.remaining.tolist() == [i for i in range(N) if i not in numbers]
        assert true_norm(fitted.exact_theta, 2, fitted.remaining) <= fitted.residual


# MNIST.


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with MNIST")
def test_thousand_removals_on_mnist() -> None:
    from torchvision.datasets import MNIST

    mnist = MNIST(os.environ["DATA_DIR"])
    chosen = (mnist.targets == 3) | (mnist.targets == 8)
    x, y = mnist.data[chosen].flatten(1).float(), (mnist.targets[chosen] == 8).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    fitted = CertifiedLogisticRegression(1e-3, 1.0, 1e-4).fit(x, y)
    for indices in order[:1000].split(5):
        fitted.remove(indices)
    never = CertifiedLogisticRegression(1e-3, 1.0, 1e-4).fit(x[order[1000:]], y[order[1000:]])
    assert float((fitted.exact_theta - never.exact_theta).norm()) <= 2e-6 / (1e-3 * (len(x) - 1000))
    release = fitted.release()
    assert float((release.predict(x) == never.release().predict(x)).double().mean()) > 0.9999
