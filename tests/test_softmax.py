import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from efface import newton
from efface.softmax import BinaryObjective, SoftmaxObjective, fit_softmax, minimise, softmax_path
from efface.softmax.steps import NewtonSteps


def problem(n: int = 300, d: int = 6, k: int = 4, noise: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) @ torch.randn(d, d, generator=g, dtype=torch.float64)
    scores = x @ torch.randn(d, k, generator=g, dtype=torch.float64)
    gumbel = -(-torch.rand(n, k, generator=g, dtype=torch.float64).log()).log()
    return x, (scores + noise * gumbel).argmax(1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_derivatives_are_autograd_s(bias: bool, weighted: bool) -> None:
    x, y = problem(n=40, d=3)
    weight = torch.rand(40, dtype=torch.float64) if weighted else None
    f = SoftmaxObjective(x, y, weight=weight, l2=0.1, bias=bias)
    theta = torch.randn(f.shape, dtype=torch.float64)
    value = lambda t: f.value(t, f.logits(t))  # noqa: E731
    p = f.logits(theta).softmax(1)
    torch.testing.assert_close(f.gradient(theta, p), torch.autograd.functional.jacobian(value, theta))
    hessian = torch.autograd.functional.hessian(value, theta).reshape(theta.numel(), -1)
    torch.testing.assert_close(f.hessian(p), hessian)
    direction = torch.randn(f.shape, dtype=torch.float64)
    torch.testing.assert_close(f.product(p)(direction).flatten(), hessian @ direction.flatten())


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_scikit_learn(k: int, bias: bool) -> None:
    x, y = problem(k=k)
    l2 = 1e-2
    ours = fit_softmax(x, y, l2=l2, bias=bias)
    # scikit-learn's binary model has one row w, penalised as ‖w‖²; our two rows ±w/2 are penalised as ‖w‖²/2.
    C = (2 if k == 2 else 1) / (l2 * len(x))
    theirs = LogisticRegression(C=C, tol=1e-10, max_iter=10_000, fit_intercept=bias).fit(x, y)
    assert ours.converged
    np.testing.assert_allclose(ours.logits(x).softmax(1), theirs.predict_proba(x), atol=2e-5)
    if k > 2:
        np.testing.assert_allclose(ours.weight, theirs.coef_, atol=1e-4)
        np.testing.assert_allclose(0 if ours.bias is None else ours.bias, theirs.intercept_, atol=1e-4)


def test_penalty_is_the_distance_from_the_centre() -> None:
    """By hand, so that value and gradient cannot be wrong together."""
    x, y = problem(n=40, d=3)
    g = torch.Generator().manual_seed(2)
    for penalise_bias in (True, False):
        for k in (2, 4):
            labels = y % k
            centre, theta = torch.randn(2, k, 4, generator=g, dtype=torch.float64)
            f = SoftmaxObjective(x, labels, n_classes=k, l2=0.3, penalise_bias=penalise_bias, centre=centre)
            z = x @ theta[:, :3].mT + theta[:, 3]
            gap = (theta - centre)[:, : 4 if penalise_bias else 3]
            by_hand = torch.nn.functional.cross_entropy(z, labels) + 0.15 * gap.square().sum()
            assert float(f.value(theta, f.logits(theta))) == pytest.approx(float(by_hand), rel=1e-12)
            pull = torch.cat([0.3 * gap, torch.zeros(k, 4 - gap.shape[1], dtype=torch.float64)], 1)
            data = f.gradient(theta, z.softmax(1)) - pull
            free = SoftmaxObjective(x, labels, n_classes=k)
            torch.testing.assert_close(data, free.gradient(theta, z.softmax(1)))


BINARY = [
    {"l2": 1e-2},
    {"l2": 1e-2, "bias": False},
    {"l2": 1e-2, "penalise_bias": True},
    {"l2": 1e-2, "penalise_bias": True, "centre": True},
    {"l2": 1e-2, "centre": True},
    {"l2": 1e-2, "bias": False, "centre": True},
    {},
    {"bias": False},
]


def binary_problem(options: dict) -> tuple[SoftmaxObjective, torch.Tensor]:
    """Two classes of unequal weights, and a start whose rows sum to anything."""
    x, y = problem(k=2, noise=6.0)
    g = torch.Generator().manual_seed(3)
    centre, start = torch.randn(2, 2, x.shape[1] + options.get("bias", True), generator=g, dtype=torch.float64)
    weight = torch.rand(len(x), generator=g, dtype=torch.float64)
    given = {**options, "centre": centre} if options.get("centre") else options
    return SoftmaxObjective(x, y, weight=weight, **given), start


@pytest.mark.parametrize("options", BINARY, ids=str)
def test_two_classes_have_the_minimum_of_the_whole_form(options: dict) -> None:
    f, start = binary_problem(options)
    whole = newton.minimise(f.at(start), [NewtonSteps(1e-11)], tol=1e-11, max_iter=100)[1]
    fit = minimise(f, init=start, tol=1e-11)
    assert whole.converged
    assert fit.converged
    torch.testing.assert_close(fit.theta, whole.theta, atol=1e-8, rtol=0)
    p = f.probabilities(f.logits(fit.theta))
    assert float(f.gradient(fit.theta, p).abs().max()) == pytest.approx(fit.grad_norm, abs=1e-13)
    assert fit.loss == pytest.approx(float(f.loss(f.logits(fit.theta))), rel=1e-12)
    # A start at the minimum is not moved, and neither is one without a step.
    assert torch.equal(minimise(f, init=fit.theta, tol=1e-10).theta, fit.theta)
    stopped = minimise(f, init=start, max_iter=0)
    assert torch.equal(stopped.theta, start)
    assert stopped.grad_norm == pytest.approx(float(f.at(start).gradient.abs().max()))


@pytest.mark.parametrize("options", BINARY[3:], ids=str)
def test_reduced_derivatives_are_autograd_s(options: dict) -> None:
    f, start = binary_problem(options)
    reduced = BinaryObjective(f)
    v = reduced.reduced(start)
    value = lambda t: reduced.value(t, reduced.logits(t))  # noqa: E731
    point = reduced.at(v)
    torch.testing.assert_close(point.gradient, torch.autograd.functional.jacobian(value, v))
    hessian = torch.autograd.functional.hessian(value, v).reshape(v.numel(), -1)
    torch.testing.assert_close(reduced.hessian(point.probabilities), hessian)
    torch.testing.assert_close(point.product()(v).flatten(), hessian @ v.flatten())
    torch.testing.assert_close(point.product(torch.float32)(v).flatten(), hessian @ v.flatten(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reduced.whole_gradient(start, point.gradient), f.at(start).gradient)
    # Restored, θ has that difference, the best sum where it is penalised and that of the start elsewhere.
    theta = reduced.restored(v, start)
    torch.testing.assert_close(reduced.reduced(theta), v)
    along_sum = f.at(theta).gradient.sum(0)
    torch.testing.assert_close(along_sum, torch.zeros_like(along_sum), atol=1e-12, rtol=0)
    free = f.penalty == 0
    torch.testing.assert_close(theta.sum(0)[free], start.sum(0)[free])


def test_reduced_form_is_for_two_classes() -> None:
    with pytest.raises(ValueError, match="there are 4 classes"):
        BinaryObjective(SoftmaxObjective(*problem()))


@pytest.mark.parametrize("shape", [(300, 6, 4), (300, 6, 2), (30, 80, 4)])
def test_path_has_the_fits_of_each_penalty(shape: tuple[int, int, int]) -> None:
    n, d, k = shape
    x, y = problem(n=n, d=d, k=k)
    grid = (1.0, 1e-1, 1e-2)
    for l2, fit in zip(grid, softmax_path(x, y, grid, n_classes=k, tol=1e-12), strict=True):
        alone = fit_softmax(x, y, n_classes=k, l2=l2, tol=1e-12)
        assert fit.converged
        torch.testing.assert_close(fit.theta, alone.theta, atol=1e-7, rtol=0)


def test_products_in_float32_do_not_keep_ill_scaled_features_from_converging() -> None:
    x, y = problem(noise=3.0)
    scaled = x * torch.logspace(-4, 4, x.shape[1], dtype=torch.float64)
    fit = fit_softmax(scaled, y, l2=1e-9, tol=1e-6, max_iter=200)
    assert fit.converged


def test_weights_are_repetitions() -> None:
    x, y = problem()
    repeat = torch.arange(len(x)) % 3
    weighted = fit_softmax(x, y, weight=repeat.double(), l2=1e-3, tol=1e-11)
    repeated = fit_softmax(x.repeat_interleave(repeat, 0), y.repeat_interleave(repeat), l2=1e-3, tol=1e-11)
    torch.testing.assert_close(weighted.weight, repeated.weight, rtol=1e-6, atol=1e-8)
    assert weighted.loss == pytest.approx(repeated.loss)


def test_warm_start_at_the_optimum_takes_no_step() -> None:
    x, y = problem()
    first = fit_softmax(x, y, l2=1e-3)
    again = fit_softmax(x, y, l2=1e-3, init=first.theta)
    assert again.iterations == 0
    torch.testing.assert_close(again.weight, first.weight)
    with pytest.raises(ValueError, match="init has parameters"):
        fit_softmax(x[:, :2], y, init=first.theta)


def test_gradient_vanishes_without_a_penalty() -> None:
    x, y = problem(noise=3.0)
    fit = fit_softmax(x, y, tol=1e-9)
    assert fit.converged
    theirs = LogisticRegression(C=math.inf, tol=1e-12, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(fit.logits(x).softmax(1), theirs.predict_proba(x), atol=1e-5)


def test_duplicated_columns_and_tiny_penalty() -> None:
    x, y = problem(noise=3.0)
    twice = fit_softmax(torch.cat([x, x], 1), y, l2=1e-8)
    once = fit_softmax(x, y, l2=5e-9)
    assert twice.converged
    assert twice.loss == pytest.approx(once.loss, abs=1e-7)


def test_more_features_than_samples() -> None:
    """The reduced problem has the solution of the whole one, which a start at zero or elsewhere does not change."""
    x, y = problem(n=30, d=80)
    fit = fit_softmax(x, y, l2=1e-2, tol=1e-11)
    whole = minimise(SoftmaxObjective(x, y, l2=1e-2), tol=1e-11)
    assert fit.converged
    torch.testing.assert_close(fit.weight, whole.weight, atol=1e-8, rtol=1e-6)
    assert fit_softmax(x, y, l2=1e-2, init=fit.theta, tol=1e-7).iterations == 0


def test_full_step_would_diverge_from_an_overconfident_start() -> None:
    x, y = problem(noise=3.0)
    best = fit_softmax(x, y, l2=1e-4)
    wrong = torch.cat([-40 * best.theta[:, :-1], best.theta[:, -1:]], 1)
    fit = fit_softmax(x, y, l2=1e-4, init=wrong, max_iter=500)
    assert fit.converged
    assert fit.loss == pytest.approx(best.loss, abs=1e-6)


def test_separable_data_say_so() -> None:
    x = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]])
    y = torch.tensor([0, 0, 1, 1])
    stopped = fit_softmax(x, y, max_iter=3)
    assert not stopped.converged
    assert fit_softmax(x, y, l2=1e-3).converged


def test_no_information_leaves_the_entropy() -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (600,), generator=g)
    p = torch.bincount(y) / 600
    fit = fit_softmax(torch.zeros(600, 2), y)
    assert fit.loss == pytest.approx(float(-(p * p.log()).sum()), abs=1e-7)


def test_head_is_the_same_map() -> None:
    x, y = problem()
    for bias in (True, False):
        fit = fit_softmax(x, y, l2=1e-2, bias=bias)
        torch.testing.assert_close(fit.head(torch.float64)(x), fit.logits(x))


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), {}, "give x"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), {}, "give x"),
        (torch.zeros(3, 2), torch.zeros(3), {}, "integer labels"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 5]), {"n_classes": 3}, "labels from 0 to 5"),
        (torch.zeros(3, 2), torch.tensor([0, 1, -1]), {}, "labels from -1"),
        (torch.full((3, 2), math.nan), torch.tensor([0, 1, 1]), {}, "x has 6 NaN"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 1]), {"l2": -1.0}, "l2 is -1"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 1]), {"weight": torch.zeros(3)}, "not all zero"),
    ],
)
def test_bad_input(x: torch.Tensor, y: torch.Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_softmax(x, y, **options)


def test_warm_start_from_the_opposite() -> None:
    x, y = problem()
    opposite = fit_softmax(x, 3 - y, l2=1e-3)
    fit = fit_softmax(x, y, l2=1e-3, init=opposite.theta, max_iter=500)
    assert fit.converged
    assert fit.loss == pytest.approx(fit_softmax(x, y, l2=1e-3).loss, abs=1e-6)
