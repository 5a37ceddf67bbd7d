import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.unlearning.certified.models import LAM, N, model, published, samples, true_norm, unfitted

from efface.unlearning.certified.regression import LinearModel
from efface.unlearning.certified.rows import augmented, into_unit_ball

KINDS = pytest.mark.parametrize(("k", "loss"), [(2, "logistic"), (3, "logistic"), (3, "softmax")])


@pytest.mark.parametrize(("k", "loss"), [(2, "logistic"), (3, "softmax")])
def test_training_equals_scikit_learn(k: int, loss: str) -> None:
    x, y = samples(k)
    ours = model(k, loss=loss, residual=1e-9).release()
    theirs = LogisticRegression(C=1 / (LAM * N), fit_intercept=False, tol=1e-10, max_iter=10_000)
    theirs.fit(augmented(x, 0.0).numpy(), y.numpy())
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(augmented(x, 0.0).numpy()), atol=1e-5)
    assert float((ours.predict(x) == y).double().mean()) > 0.75


@KINDS
def test_training_ends_at_a_measured_gradient(k: int, loss: Any) -> None:
    fitted = model(k, loss=loss)
    norm = true_norm(fitted.exact_theta, k, torch.arange(N), loss=loss)
    assert norm <= fitted.residual
    assert fitted.gradient_norm() == pytest.approx(norm, rel=1e-3, abs=1e-12)


@KINDS
@pytest.mark.parametrize("max_norm", [0.0, 2.5])
def test_head_has_the_logits_of_the_release(k: int, loss: str, max_norm: float) -> None:
    x, _ = samples(k)
    release = model(k, loss=loss, max_norm=max_norm).release()
    logits = release.head()(into_unit_ball(x, max_norm))
    torch.testing.assert_close(logits.double(), release.logits(x), atol=1e-5, rtol=1e-5)
    p = release.predict_proba(x)
    torch.testing.assert_close(p.sum(1), torch.ones(N, dtype=torch.float64))
    assert torch.equal(p.argmax(1), release.predict(x))
    if k == 2:
        torch.testing.assert_close(logits.softmax(1).double(), p, atol=1e-6, rtol=0)


def test_published_weights_predict_too() -> None:
    x, y = samples()
    assert isinstance(published().model, LinearModel)
    assert float((published().model.predict(x) == y).double().mean()) > 0.75


def test_unit_ball_scales_rows_independently() -> None:
    x, _ = samples()
    x[0] *= 100
    for max_norm in (0.0, 2.5):
        scaled = into_unit_ball(x, max_norm)
        assert float(scaled.norm(dim=1).max()) <= 1 + 1e-6
        torch.testing.assert_close(scaled[1:], into_unit_ball(x[1:], max_norm))
    assert into_unit_ball(torch.zeros(2, 3)).tolist() == [[0, 0, 0]] * 2


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (model, {"lam": 0.0}, "lam is 0.0"),
        (model, {"epsilon": -1.0}, "epsilon is -1.0"),
        (model, {"delta": 1.0}, "delta is 1.0"),
        (model, {"residual": math.inf}, "residual is inf"),
        (model, {"residual": 0.0}, "residual is 0.0"),
        (model, {"loss": "hinge"}, "loss is 'hinge'"),
        (model, {"max_norm": -1.0}, "max_norm is -1.0"),
        (published, {"sigma": math.inf}, "sigma is inf"),
        (published, {"tol": 0.0}, "tol is 0.0"),
        (published, {"tol": 1.0}, "lower tol"),
    ],
)
def test_bad_options(make: Callable[..., Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_bad_data_and_unfitted() -> None:
    fresh = unfitted()
    x, y = samples()
    for use in (fresh.release, lambda: fresh.remove([0]), lambda: fresh.exact_theta, lambda: fresh.save("x")):
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
    with pytest.raises(ArithmeticError, match="ask for a larger one"):
        unfitted(residual=1e-19).fit(x, y)
