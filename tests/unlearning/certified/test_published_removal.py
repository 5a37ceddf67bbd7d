from typing import Any

import pytest
import torch
from tests.unlearning.certified.models import ROOMY, N, published, true_norm

from efface.unlearning.certified import published as module
from efface.unlearning.certified.published import BudgetSpentError, PublishedRemoval


@pytest.mark.parametrize("k", [2, 3])
def test_true_residual_never_exceeds_what_is_spent(k: int) -> None:
    fitted = published(k, **ROOMY)
    B = fitted.perturbation.clone()
    assert float(B.std()) == pytest.approx(0.5, rel=0.5)  # the intercept's too
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    before = fitted.spent
    for batch in [*order[:40].split(1), *order[40:100].split(20)]:
        assert not fitted.remove(batch).retrained
        residual = true_norm(fitted.model.theta, k, fitted.remaining, B=B)
        assert residual <= fitted.spent - fitted.tol + 1e-12
        assert fitted.gradient_norm() == pytest.approx(residual, rel=1e-3, abs=1e-12)
        assert fitted.spent > before
        before = fitted.spent
    assert sorted(fitted.remaining.tolist() + order[:100].tolist()) == list(range(N))


def test_residual_is_far_below_the_bound() -> None:
    fitted = published(**ROOMY)
    for i in range(100):
        fitted.remove([i])
    assert fitted.gradient_norm() <= fitted.spent / 50


def test_errors_of_inexact_solves_are_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RTOL", 0.3)

    def excess() -> float:
        fitted = published(3, lam=1.0, **ROOMY)
        for i in range(20):
            fitted.remove([i])
        return fitted.gradient_norm() - (fitted.spent - fitted.tol)

    assert excess() <= 0
    monkeypatch.setattr(module, "solve_error", lambda *_: 0.0)
    assert excess() > 0, "the test does not see what it is for"


def test_residual_of_one_step_is_within_theorem_1() -> None:
    """4γC²/(λ²(n − 1)) with γ = ¼ and C = 1."""
    for lam in (1e-3, 1e-2, 1e-1, 1.0):
        for i in range(5):
            fitted = published(lam=lam, tol=1e-9, **ROOMY)
            fitted.remove([i])
            assert fitted.gradient_norm() <= 1 / (lam**2 * (N - 1))


def state(fitted: PublishedRemoval) -> tuple[Any, ...]:
    return fitted.model.theta.tolist(), fitted.spent, fitted.remaining.tolist(), fitted.perturbation.tolist()


def test_spent_budget_is_refused_and_leaves_the_model_as_it_was() -> None:
    fitted = published(epsilon=20.0)
    done = 0
    while fitted.spent < 0.8 * fitted.allowance:
        fitted.remove([done])
        done += 1
    assert done > 0
    before = state(fitted)
    with pytest.raises(BudgetSpentError, match="the budget is"):
        fitted.remove(range(done, done + 100))
    assert (state(fitted)[0], fitted.spent, fitted.remaining.tolist()) == before[:3]
    report = fitted.remove(range(done, done + 100), retrain=True)
    assert report.retrained
    assert fitted.spent <= 2 * fitted.tol
    assert fitted.remaining.tolist() == list(range(done + 100, N))
    assert fitted.perturbation.tolist() != before[-1], "a perturbation must never be used twice"


def test_failed_retraining_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = published()
    before = state(fitted)
    monkeypatch.setattr(module, "spectral_bound", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fitted.remove(range(200), retrain=True)
    assert state(fitted) == before
    monkeypatch.undo()
    fitted.remove([7])
    assert fitted.gradient_norm() <= fitted.spent


def test_bad_request_and_none() -> None:
    fitted = published()
    before = state(fitted)
    with pytest.raises(ValueError, match="occurs twice"):
        fitted.remove([5, 5])
    assert fitted.remove([]).removed == 0
    assert state(fitted) == before
    with pytest.raises(RuntimeError, match="call fit"):
        PublishedRemoval(1e-2, 0.5, 1.0, 1e-4).remove([0])
