import os
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tests.unlearning.certified.models import ROOMY, N, model, retrained, samples, true_residual

from efface.unlearning.certified import classifier, removal
from efface.unlearning.certified.removal import BudgetSpentError, CertifiedLogisticRegression
from efface.unlearning.certified.rows import augmented

# Removal.


@pytest.mark.parametrize(("k", "loss", "budget"), [
    (2, "logistic", "bound"), (3, "logistic", "bound"), (2, "logistic", "measured"), (3, "softmax", "measured"),
])  # fmt: skip
def test_true_residual_never_exceeds_what_is_spent(k: int, loss: str, budget: str) -> None:
    fitted = model(k, loss=loss, budget=budget, **(ROOMY if budget == "bound" else {}))
    B = fitted.debug_state().perturbation.clone()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    before = fitted.spent
    for batch in [*order[:40].split(1), *order[40:100].split(20)]:
        removal = fitted.remove(batch)
        assert not removal.retrained
        residual = true_residual(fitted, B, k, fitted.remaining)
        assert residual <= fitted.spent - fitted.tol + 1e-12
        if budget == "bound":
            assert fitted.spent > before
            before = fitted.spent
        else:
            assert fitted.spent == pytest.approx(residual + fitted.tol, rel=1e-6)
    assert sorted(fitted.remaining.tolist() + order[:100].tolist()) == list(range(N))


def test_measured_residual_is_far_below_the_bound_and_does_not_grow() -> None:
    bound, measured = (model(budget=budget, **ROOMY) for budget in ("bound", "measured"))
    residuals = []
    for i in range(100):
        bound.remove([i])
        measured.remove([i])
        residuals.append(measured.spent)
    assert bound.gradient_norm() <= bound.spent / 50
    assert measured.spent <= bound.spent / 50
    assert np.mean(residuals[50:]) < 3 * np.mean(residuals[:50])


def test_errors_of_inexact_solves_are_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "BOUND_RTOL", 0.3)

    def excess() -> float:
        fitted = model(3, budget="bound", lam=1.0, **ROOMY)
        for i in range(20):
            fitted.remove([i])
        return fitted.gradient_norm() - (fitted.spent - fitted.tol)

    assert excess() <= 0
    monkeypatch.setattr(removal, "solve_error", lambda *_: 0.0)
    assert excess() > 0, "the test does not see what it is for"


def test_distance_to_exact_retraining_falls_as_lam_grows() -> None:
    """A λ(n − 1)-strongly convex loss; theorem 1 bounds its gradient by 4γC²/(λ²(n − 1)), with γ = ¼ and C = 1."""
    distances = []
    for lam in (1e-3, 1e-2, 1e-1, 1.0):
        worst = 0.0
        for i in range(5):
            fitted = model(lam=lam, budget="bound", tol=1e-9, **ROOMY)
            fitted.remove([i])
            residual, distance = fitted.gradient_norm(), float((fitted.theta - retrained(fitted)).norm())
            assert residual <= 1 / (lam**2 * (N - 1))
            assert distance <= (residual + 1e-8) / (lam * (N - 1))
            worst = max(worst, distance)
        distances.append(worst)
    assert all(later < sooner / 3 for sooner, later in pairwise(distances)), distances


def test_batch_equals_its_members_one_by_one() -> None:
    one_by_one, batch = model(sigma=0.05), model(sigma=0.05)
    assert torch.equal(one_by_one.debug_state().perturbation, batch.debug_state().perturbation)
    for i in range(30):
        one_by_one.remove([i])
    assert batch.remove(range(30)).removed == 30
    for fitted in (one_by_one, batch):
        distance = float((fitted.theta - retrained(fitted)).norm())
        assert distance <= fitted.spent / (fitted.lam * (N - 30))
    assert torch.equal(one_by_one.remaining, batch.remaining)


def test_step_that_leaves_too_much_is_followed_by_another() -> None:
    fitted = model(lam=1e-4, sigma=1e-4, tol=1e-8)
    removal = fitted.remove(range(150))
    assert removal.newton_steps > 1
    assert not removal.retrained
    assert fitted.gradient_norm() <= fitted.spent <= fitted.allowance


def test_removed_sample_is_wiped_from_memory() -> None:
    x, _ = samples()
    fitted = model()
    fitted.remove([3, 399, 17])
    memory = fitted.debug_state().rows
    for i in (3, 17, 399):
        assert float((memory - augmented(x[i : i + 1], 0.0)).norm(dim=1).min()) > 1e-3
    torch.testing.assert_close(memory[:397].sum(0), augmented(x[fitted.remaining], 0.0).sum(0))


# The budget.


def state(fitted: CertifiedLogisticRegression) -> tuple[Any, ...]:
    x, _ = samples()
    return (
        fitted.logits(x).tolist(),
        fitted.spent,
        fitted.remaining.tolist(),
        fitted.debug_state().perturbation.tolist(),
    )


def test_spent_budget_is_refused_and_leaves_the_model_as_it_was() -> None:
    fitted = model(budget="bound", epsilon=20.0)
    done = 0
    while fitted.spent < 0.8 * fitted.allowance:
        fitted.remove([done])
        done += 1
    assert done > 0
    before = state(fitted)
    with pytest.raises(BudgetSpentError, match="the budget is"):
        fitted.remove(range(done, done + 100))
    assert state(fitted) == before
    assert fitted.spent <= fitted.allowance
    assert fitted.needs_retraining
    assert fitted.gradient_norm() <= fitted.spent
    removal = fitted.remove(range(done, done + 100), retrain=True)
    assert removal.retrained
    assert not fitted.needs_retraining
    assert fitted.spent <= 2 * fitted.tol
    assert fitted.remaining.tolist() == list(range(done + 100, N))
    assert fitted.debug_state().perturbation.tolist() != before[-1], "a perturbation must never be used twice"


def test_perturbation_is_drawn_anew_in_every_training() -> None:
    used = []
    for generator in (None, None, torch.Generator().manual_seed(0)):
        fitted = model(generator=generator)
        used.append(fitted.debug_state().perturbation)
        fitted.retrain()
        used.append(fitted.debug_state().perturbation)
    assert len({tuple(B.flatten().tolist()) for B in used}) == len(used)


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
    assert not fitted.needs_retraining
    assert fitted.remove([]).removed == 0
    assert state(fitted) == before


def test_failed_retraining_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = model(budget="bound")
    before = state(fitted)
    monkeypatch.setattr(classifier, "spectral_bound", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fitted.remove(range(200), retrain=True)
    assert state(fitted) == before
    monkeypatch.undo()
    fitted.remove([7])
    assert fitted.gradient_norm() <= fitted.spent


# MNIST.


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with MNIST")
def test_thousand_removals_on_mnist() -> None:
    from torchvision.datasets import MNIST

    mnist = MNIST(os.environ["DATA_DIR"])
    kept = (mnist.targets == 3) | (mnist.targets == 8)
    x, y = mnist.data[kept].flatten(1).float(), (mnist.targets[kept] == 8).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    residuals, bounds = {}, {}
    for budget, batch in (("bound", 1), ("measured", 5)):
        fitted = CertifiedLogisticRegression(1e-3, 10.0, 1e4, 1e-4, budget=budget).fit(x, y)  # type: ignore[arg-type]
        for i, indices in enumerate(order[:1000].split(batch)):
            fitted.remove(indices)
            if i % 20 == 0:
                assert fitted.gradient_norm() <= fitted.spent - fitted.tol + 1e-9
        residuals[budget], bounds[budget] = fitted.gradient_norm(), fitted.spent
        assert residuals[budget] <= fitted.spent - fitted.tol + 1e-9
    assert max(residuals.values()) <= bounds["bound"] / 50
    assert bounds["measured"] <= bounds["bound"] / 50
