import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.unlearning.certified.models import N, model, samples, true_residual

from efface.unlearning.certified.removal import CertifiedLogisticRegression
from efface.unlearning.certified.rows import augmented, into_unit_ball


@pytest.mark.parametrize(("k", "loss"), [(2, "logistic"), (3, "softmax")])
def test_training_without_a_perturbation_equals_scikit_learn(k: int, loss: str) -> None:
    x, y = samples(k)
    ours = model(k, loss=loss, sigma=1e-3, tol=1e-9)
    theirs = LogisticRegression(C=1 / (1e-2 * N), fit_intercept=False, tol=1e-10, max_iter=10_000)
    theirs.fit(augmented(x, 0.0).numpy(), y.numpy())
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(augmented(x, 0.0).numpy()), atol=1e-3)
    assert float((ours.predict(x) == y).double().mean()) > 0.75


@pytest.mark.parametrize(("k", "loss"), [(2, "logistic"), (3, "logistic"), (3, "softmax")])
def test_training_ends_at_a_measured_gradient(k: int, loss: str) -> None:
    fitted = model(k, loss=loss)
    residual = true_residual(fitted, fitted.debug_state().perturbation, k, torch.arange(N))
    assert residual <= fitted.tol
    assert fitted.gradient_norm() == pytest.approx(residual, rel=1e-3, abs=1e-12)
    assert fitted.spent == pytest.approx(residual + fitted.tol)
    # Every weight is perturbed, that of the intercept too, by σ.
    assert float(fitted.debug_state().perturbation.std()) == pytest.approx(0.5, rel=0.5)


@pytest.mark.parametrize(("k", "loss"), [(2, "logistic"), (3, "logistic"), (3, "softmax")])
@pytest.mark.parametrize("max_norm", [0.0, 2.5])
def test_head_has_the_logits_of_the_model(k: int, loss: str, max_norm: float) -> None:
    x, _ = samples(k)
    fitted = model(k, loss=loss, max_norm=max_norm)
    logits = fitted.head()(into_unit_ball(x, max_norm))
    torch.testing.assert_close(logits.double(), fitted.logits(x), atol=1e-5, rtol=1e-5)
    p = fitted.predict_proba(x)
    torch.testing.assert_close(p.sum(1), torch.ones(N, dtype=torch.float64))
    assert torch.equal(p.argmax(1), fitted.predict(x))
    if k == 2:
        torch.testing.assert_close(logits.softmax(1).double(), p, atol=1e-6, rtol=0)


def test_unit_ball_scales_rows_independently() -> None:
    x, _ = samples()
    x[0] *= 100
    for max_norm in (0.0, 2.5):
        scaled = into_unit_ball(x, max_norm)
        assert float(scaled.norm(dim=1).max()) <= 1 + 1e-6
        torch.testing.assert_close(scaled[1:], into_unit_ball(x[1:], max_norm))
    assert into_unit_ball(torch.zeros(2, 3)).tolist() == [[0, 0, 0]] * 2


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
