import json
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from efface.unlearning.certified import removal as certified
from efface.unlearning.certified.objective import Preconditioner, minimise
from efface.unlearning.certified.removal import BudgetSpentError, CertifiedLogisticRegression
from efface.unlearning.certified.rows import augmented, into_unit_ball

N, D = 400, 8
ROOMY: Any = {"epsilon": 1e6}
"""A budget that lasts, under a perturbation as small as ever."""


def samples(k: int = 2, n: int = N) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, D, generator=g)
    return x, (x @ torch.randn(D, k, generator=g) + torch.randn(n, k, generator=g)).argmax(1)


def model(k: int = 2, **options: Any) -> CertifiedLogisticRegression:
    """Fitted on the samples, with a repeatable perturbation."""
    given = {"lam": 1e-2, "sigma": 0.5, "epsilon": 1.0, "delta": 1e-4, "generator": torch.Generator().manual_seed(2)}
    return CertifiedLogisticRegression(**{**given, **options}).fit(*samples(k), n_classes=k)


def true_residual(model: CertifiedLogisticRegression, B: Tensor, k: int, remaining: Tensor) -> float:
    """‖∇L_B‖ from the definition, by automatic differentiation."""
    x, y = samples(k)
    x, y = x[remaining].double(), y[remaining]
    x = torch.cat([x / x.norm(dim=1, keepdim=True), torch.ones(len(x), 1)], 1) / math.sqrt(2)
    theta = model.theta.clone().requires_grad_()
    logits = x @ theta
    if model.loss == "softmax":
        loss = torch.nn.functional.cross_entropy(logits, y, reduction="sum")
    else:
        targets = y[:, None] if k == 2 else torch.nn.functional.one_hot(y, k)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.double(), reduction="sum")
    loss = loss + model.lam * len(x) / 2 * theta.square().sum() + (B * theta).sum()
    (gradient,) = torch.autograd.grad(loss, theta)
    return float(gradient.norm())


def retrained(model: CertifiedLogisticRegression) -> Tensor:
    """The exact minimum on what is left, under the same perturbation."""
    data = model._rows
    loss = model._loss(data, data.n, model._fit.perturbation)
    return minimise(loss, torch.zeros_like(model.theta), Preconditioner(), tol=1e-9).theta


# Training.


@pytest.mark.parametrize(("k", "loss"), [(2, "logistic"), (3, "softmax")])
def test_without_a_perturbation_it_is_scikit_learn_s(k: int, loss: str) -> None:
    x, y = samples(k)
    ours = model(k, loss=loss, sigma=1e-3, tol=1e-9)
    theirs = LogisticRegression(C=1 / (1e-2 * N), fit_intercept=False, tol=1e-10, max_iter=10_000)
    theirs.fit(augmented(x, 0.0).numpy(), y.numpy())
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(augmented(x, 0.0).numpy()), atol=1e-3)
    assert float((ours.predict(x) == y).double().mean()) > 0.75


@pytest.mark.parametrize(("k", "loss"), [(2, "logistic"), (3, "logistic"), (3, "softmax")])
def test_training_ends_at_a_measured_gradient(k: int, loss: str) -> None:
    fitted = model(k, loss=loss)
    residual = true_residual(fitted, fitted._fit.perturbation, k, torch.arange(N))
    assert residual <= fitted.tol
    assert fitted.gradient_norm() == pytest.approx(residual, rel=1e-3, abs=1e-12)
    assert fitted.spent == pytest.approx(residual + fitted.tol)
    # Every weight is perturbed, that of the intercept too, by σ.
    assert float(fitted._fit.perturbation.std()) == pytest.approx(0.5, rel=0.5)


@pytest.mark.parametrize(("k", "loss"), [(2, "logistic"), (3, "logistic"), (3, "softmax")])
@pytest.mark.parametrize("max_norm", [0.0, 2.5])
def test_the_head_is_the_model(k: int, loss: str, max_norm: float) -> None:
    x, _ = samples(k)
    fitted = model(k, loss=loss, max_norm=max_norm)
    logits = fitted.head()(into_unit_ball(x, max_norm))
    torch.testing.assert_close(logits.double(), fitted.logits(x), atol=1e-5, rtol=1e-5)
    p = fitted.predict_proba(x)
    torch.testing.assert_close(p.sum(1), torch.ones(N, dtype=torch.float64))
    assert torch.equal(p.argmax(1), fitted.predict(x))
    if k == 2:
        torch.testing.assert_close(logits.softmax(1).double(), p, atol=1e-6, rtol=0)


def test_a_row_s_scale_knows_no_other_row() -> None:
    x, _ = samples()
    x[0] *= 100
    for max_norm in (0.0, 2.5):
        scaled = into_unit_ball(x, max_norm)
        assert float(scaled.norm(dim=1).max()) <= 1 + 1e-6
        torch.testing.assert_close(scaled[1:], into_unit_ball(x[1:], max_norm))
    assert into_unit_ball(torch.zeros(2, 3)).tolist() == [[0, 0, 0]] * 2


# Removal.


@pytest.mark.parametrize(("k", "loss", "budget"), [
    (2, "logistic", "bound"), (3, "logistic", "bound"), (2, "logistic", "measured"), (3, "softmax", "measured"),
])  # fmt: skip
def test_the_true_residual_never_exceeds_what_is_accounted_for(k: int, loss: str, budget: str) -> None:
    fitted = model(k, loss=loss, budget=budget, **(ROOMY if budget == "bound" else {}))
    B = fitted._fit.perturbation.clone()
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


def test_the_measured_residual_is_far_below_the_bound_and_does_not_grow() -> None:
    bound, measured = (model(budget=budget, **ROOMY) for budget in ("bound", "measured"))
    residuals = []
    for i in range(100):
        bound.remove([i])
        measured.remove([i])
        residuals.append(measured.spent)
    assert bound.gradient_norm() <= bound.spent / 50
    assert measured.spent <= bound.spent / 50
    assert np.mean(residuals[50:]) < 3 * np.mean(residuals[:50])


def test_solves_that_are_inexact_are_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certified, "_BOUND_RTOL", 0.3)

    def excess() -> float:
        fitted = model(3, budget="bound", lam=1.0, **ROOMY)
        for i in range(20):
            fitted.remove([i])
        return fitted.gradient_norm() - (fitted.spent - fitted.tol)

    assert excess() <= 0
    monkeypatch.setattr(certified, "solve_error", lambda *_: 0.0)
    assert excess() > 0, "the test does not see what it is for"


def test_closer_to_exact_retraining_as_lam_grows() -> None:
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


def test_a_batch_is_what_its_members_are_one_by_one() -> None:
    one_by_one, batch = model(sigma=0.05), model(sigma=0.05)
    assert torch.equal(one_by_one._fit.perturbation, batch._fit.perturbation)
    for i in range(30):
        one_by_one.remove([i])
    assert batch.remove(range(30)).removed == 30
    for fitted in (one_by_one, batch):
        distance = float((fitted.theta - retrained(fitted)).norm())
        assert distance <= fitted.spent / (fitted.lam * (N - 30))
    assert torch.equal(one_by_one.remaining, batch.remaining)


def test_a_step_that_leaves_too_much_is_followed_by_another() -> None:
    fitted = model(lam=1e-4, sigma=1e-4, tol=1e-8)
    removal = fitted.remove(range(150))
    assert removal.newton_steps > 1
    assert not removal.retrained
    assert fitted.gradient_norm() <= fitted.spent <= fitted.allowance


def test_a_removed_sample_is_wiped_from_memory() -> None:
    x, _ = samples()
    fitted = model()
    fitted.remove([3, 399, 17])
    held = fitted._rows.x
    for i in (3, 17, 399):
        assert float((held - augmented(x[i : i + 1], 0.0)).norm(dim=1).min()) > 1e-3
    torch.testing.assert_close(held[:397].sum(0), augmented(x[fitted.remaining], 0.0).sum(0))


# The budget.


def state(fitted: CertifiedLogisticRegression) -> tuple[Any, ...]:
    x, _ = samples()
    return fitted.logits(x).tolist(), fitted.spent, fitted.remaining.tolist(), fitted._fit.perturbation.tolist()


def test_a_spent_budget_is_refused_and_leaves_the_model_as_it_was() -> None:
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
    assert fitted._fit.perturbation.tolist() != before[-1], "a perturbation must never be used twice"


def test_every_training_draws_its_own_perturbation() -> None:
    used = []
    for generator in (None, None, torch.Generator().manual_seed(0)):
        fitted = model(generator=generator)
        used.append(fitted._fit.perturbation)
        fitted.retrain()
        used.append(fitted._fit.perturbation)
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


def test_a_failed_retraining_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = model(budget="bound")
    before = state(fitted)
    monkeypatch.setattr(certified, "spectral_bound", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fitted.remove(range(200), retrain=True)
    assert state(fitted) == before
    monkeypatch.undo()
    fitted.remove([7])
    assert fitted.gradient_norm() <= fitted.spent


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": 0.0}, "lam is 0.0"),
        ({"sigma": math.inf}, "sigma is inf"),
        ({"epsilon": -1.0}, "epsilon is -1.0"),
        ({"delta": 1.0}, "delta is 1.0"),
        ({"budget": "spent"}, "budget is 'spent'"),
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"loss": "softmax", "budget": "bound"}, "loss='logistic' only"),
        ({"max_norm": -1.0}, "max_norm is -1.0"),
        ({"tol": 1.0}, "lower tol"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**options)


def test_bad_data_and_unfitted() -> None:
    fresh = CertifiedLogisticRegression(1e-2, 0.5, 1.0, 1e-4)
    x, y = samples()
    for use in (lambda: fresh.predict(x), lambda: fresh.remove([0]), lambda: fresh.spent, lambda: fresh.save("x")):
        with pytest.raises(RuntimeError, match="call fit"):
            use()
    for bad_x, bad_y, k, message in (
        (x, y[:-1], None, "give x"),
        (x, y.double(), None, "integer labels"),
        (x, y, 1, "must lie in"),
        (x, y - 1, None, "must lie in"),
        (torch.full_like(x, math.nan), y, None, "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            fresh.fit(bad_x, bad_y, n_classes=k)
    with pytest.raises(ArithmeticError, match="raise tol"):
        CertifiedLogisticRegression(1e-2, 0.5, 1.0, 1e-4, tol=1e-19).fit(x, y)


# Keeping.


@pytest.mark.parametrize("budget", ["bound", "measured"])
def test_a_saved_model_can_go_on_removing(budget: str, tmp_path: Path) -> None:
    x, y = samples()
    fitted = model(budget=budget, **ROOMY)
    fitted.remove([0, 7, 399])
    fitted.save(tmp_path / "model")
    rest = fitted.remaining
    loaded = CertifiedLogisticRegression.load(tmp_path / "model", x[rest], y[rest])
    assert torch.equal(loaded.logits(x), fitted.logits(x))
    assert loaded.spent == fitted.spent
    assert loaded.gradient_norm() >= fitted.gradient_norm()
    B = fitted._fit.perturbation  # which the loaded model does not know
    for i in range(10, 40):
        loaded.remove([i])
        assert true_residual(loaded, B, 2, loaded.remaining) <= loaded.spent - loaded.tol + 1e-12
        assert loaded.gradient_norm() <= loaded.spent - loaded.tol + 1e-12
    assert loaded.remaining.tolist() == [i for i in rest.tolist() if not 10 <= i < 40]
    loaded.retrain()
    assert loaded.spent <= 2 * loaded.tol


def test_neither_data_nor_perturbation_nor_residual_are_in_the_file(tmp_path: Path) -> None:
    fitted = model()
    fitted.remove([5])
    fitted.save(tmp_path / "model")
    with safe_open(tmp_path / "model", framework="pt") as file:
        assert sorted(file.keys()) == ["remaining", "theta"]
        assert file.get_tensor("theta").shape == (D + 1, 1)
        told = json.loads(file.metadata()["facts"])
    assert all(not isinstance(value, list) for value in told.values())
    content = (tmp_path / "model").read_bytes()
    for secret in (fitted._fit.perturbation, fitted._fit.gradient, fitted._rows.x[0]):
        assert secret.numpy().tobytes()[:8] not in content


def test_loading_asks_for_the_samples_that_are_left(tmp_path: Path) -> None:
    x, y = samples()
    fitted = model()
    fitted.remove([5])
    fitted.save(tmp_path / "model")
    rest = fitted.remaining
    predictor = CertifiedLogisticRegression.load(tmp_path / "model")
    assert torch.equal(predictor.predict(x), fitted.predict(x))
    assert torch.equal(predictor.remaining, rest)
    with pytest.raises(RuntimeError, match="loaded without its samples"):
        predictor.remove([0])
    other = rest.clone()
    other[[0, 1]] = other[[1, 0]]
    changed = x[rest].clone()
    changed[3, 3] += 1e-6
    for bad_x, bad_y in ((x, y), (x[other], y[other]), (changed, y[rest]), (x[rest], 1 - y[rest])):
        with pytest.raises(ValueError, match="`remaining`"):
            CertifiedLogisticRegression.load(tmp_path / "model", bad_x, bad_y)
    (tmp_path / "model").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a saved CertifiedLogisticRegression"):
        CertifiedLogisticRegression.load(tmp_path / "model")


# MNIST.


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with MNIST")
def test_a_thousand_removals_on_mnist() -> None:
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
