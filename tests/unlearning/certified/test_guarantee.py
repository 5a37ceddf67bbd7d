"""The guarantee itself, by sampling: how likely is an event after a removal, and where the samples were never seen.

The event S is chosen on some draws and scored on others. δ at ε is at least P(one in S) − e^ε P(other in S), for either
of the two as the one. The interval of that number is Clopper and Pearson's for each probability, 97.5 % a side.

Forty samples in one dimension, three of them removed, λ = 3e-3, as in the audit of the former procedure. That released
a model as soon as its gradient residual was within an allowance of the noise, which had been added before: its number
of Newton steps depends on that noise, and so does what it may release. The audit measured, on data of its own, that δ
has to be .088 ± .001 at (ε, δ) = (1, .01) and σ = .3, .047 at σ = .35, .033 at (.5, .01) and σ = .6, and .037 at
(1, 1e-4) and σ = .5; through the public interface .0936 ± .0053 where .01 was claimed.
"""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import beta
from torch import Tensor

from efface.unlearning.certified.mechanism import allowed_shift
from efface.unlearning.certified.removal import CertifiedLogisticRegression

N, LAM, REMOVED = 40, 3e-3, [33, 23, 32]
Draw = Callable[[int], Tensor]
"""Draws weights `[m, 2]`."""


def data() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(N, generator=g, dtype=torch.float64)
    noise = torch.randn(N, generator=g, dtype=torch.float64)
    return x[:, None], ((x + noise) > 0).long()


def needed_delta(epsilon: float, one: Draw, other: Draw, draws: int) -> tuple[float, float]:
    """An interval of P(one in S) − e^ε P(other in S), for the S of grid cells where one is likelier by e^ε."""
    first = one(draws), other(draws)
    low, high = (torch.cat(first).quantile(q, dim=0) for q in (0.001, 0.999))
    grid = int(math.sqrt(draws) / 5)  # finer, and the event would be chosen by chance
    share = [_cells(theta, low, high, grid).bincount(minlength=grid**2) / draws for theta in first]
    event = share[0] > math.exp(epsilon) * share[1]
    hits = [int(event[_cells(draw(draws), low, high, grid)].sum()) for draw in (one, other)]
    (low_one, high_one), (low_other, high_other) = (_clopper_pearson(count, draws) for count in hits)
    return low_one - math.exp(epsilon) * high_other, high_one - math.exp(epsilon) * low_other


def _cells(theta: Tensor, low: Tensor, high: Tensor, grid: int) -> Tensor:
    cell = ((theta - low) / (high - low) * (grid - 2)).floor().clamp(-1, grid - 2).long() + 1
    return cell[:, 0] * grid + cell[:, 1]


def _clopper_pearson(count: int, n: int) -> tuple[float, float]:
    low = 0.0 if count == 0 else float(beta.ppf(0.025, count, n - count + 1))
    high = 1.0 if count == n else float(beta.ppf(0.975, count + 1, n - count))
    return low, high


# The certified procedure, through its public interface.


def releases(fitted: CertifiedLogisticRegression) -> Draw:
    return lambda m: torch.stack([fitted.release().theta[:, 0] for _ in range(m)])


def removed_and_never_trained(epsilon: float, delta: float, residual: float) -> tuple[Draw, Draw]:
    x, y = data()
    keep = [i for i in range(N) if i not in REMOVED]
    after, never = (
        CertifiedLogisticRegression(
            LAM, epsilon, delta, residual=residual, max_norm=1.0, generator=torch.Generator().manual_seed(seed)
        )
        for seed in (0, 1)
    )
    after.fit(x, y).remove(REMOVED)
    return releases(after), releases(never.fit(x[keep], y[keep]))


SETTINGS = [(1.0, 0.01), (0.5, 0.01), (1.0, 1e-4)]


def assert_guaranteed(epsilon: float, delta: float, residual: float, draws: int) -> None:
    after, never = removed_and_never_trained(epsilon, delta, residual)
    for one, other in ((after, never), (never, after)):
        _, upper = needed_delta(epsilon, one, other, draws)
        assert upper <= delta


@pytest.mark.parametrize(("epsilon", "delta"), SETTINGS[:2])  # a δ of 1e-4 takes more draws to see
def test_removal_is_guaranteed_where_the_former_one_needed_nine_times_the_delta(epsilon: float, delta: float) -> None:
    assert_guaranteed(epsilon, delta, residual=0.1, draws=4_000)


@pytest.mark.slow
@pytest.mark.parametrize("residual", [1e-6, 0.1, 1.0])
@pytest.mark.parametrize(("epsilon", "delta"), SETTINGS)
def test_removal_is_guaranteed_in_many_draws(epsilon: float, delta: float, residual: float) -> None:
    assert_guaranteed(epsilon, delta, residual, draws=40_000)


# The former one, which has to fail, or the test would not see what it is for.


def rows() -> tuple[Tensor, Tensor]:
    x, y = data()
    x = x / x.abs().clamp_min(1.0)
    return torch.cat([x, torch.ones_like(x)], 1) / math.sqrt(2), y.double()


def minimised(theta: Tensor, x: Tensor, y: Tensor, B: Tensor, tol: float, least: int = 0) -> Tensor:
    """Newton steps with halving on all draws `[m, 2]` at once, each until ‖∇L_B‖ <= tol, but `least` at least."""

    def gradient(theta: Tensor) -> Tensor:
        return ((theta @ x.mT).sigmoid() - y) @ x + LAM * len(y) * theta + B

    def value(theta: Tensor) -> Tensor:
        z = theta @ x.mT
        loss = (torch.nn.functional.softplus(z) - z * y).sum(1)
        return loss + LAM * len(y) / 2 * theta.square().sum(1) + (B * theta).sum(1)

    for iteration in range(60):
        g = gradient(theta)
        active = (g.norm(dim=1) > tol) | (iteration < least)
        if not active.any():
            break
        p = (theta @ x.mT).sigmoid()
        H = torch.einsum("mi,ij,ik->mjk", p * (1 - p), x, x) + LAM * len(y) * torch.eye(2, dtype=x.dtype)
        step, t = torch.linalg.solve(H, g), torch.ones(len(theta), dtype=x.dtype)
        for _ in range(40):
            rises = value(theta - t[:, None] * step) > value(theta) - 1e-4 * t * (g * step).sum(1) + 1e-13
            t = torch.where(rises, t / 2, t)
        theta = torch.where(active[:, None], theta - t[:, None] * step, theta)
    return theta


def released_within_an_allowance(sigma: float, epsilon: float, delta: float) -> tuple[Draw, Draw]:
    """The former `budget="measured"`: a perturbed objective, and steps until the residual is within the allowance."""
    x, y = rows()
    keep = [i for i in range(N) if i not in REMOVED]
    g = torch.Generator().manual_seed(0)
    allowance = sigma * min(allowed_shift(epsilon, delta), epsilon / math.sqrt(2 * math.log(1.5 / delta)))

    def perturbations(m: int) -> Tensor:
        return sigma * torch.randn(m, 2, generator=g, dtype=torch.float64)

    def after(m: int) -> Tensor:
        B = perturbations(m)
        trained = minimised(torch.zeros_like(B), x, y, B, 1e-6)
        return minimised(trained, x[keep], y[keep], B, allowance - 2e-6, least=1)

    def never(m: int) -> Tensor:
        B = perturbations(m)
        return minimised(torch.zeros_like(B), x[keep], y[keep], B, 1e-6)

    return after, never


@pytest.mark.parametrize(
    ("sigma", "epsilon", "delta", "draws", "least"),
    [
        (0.3, 1.0, 0.01, 20_000, 0.03),
        pytest.param(0.3, 1.0, 0.01, 40_000, 0.06, marks=pytest.mark.slow),
        pytest.param(0.6, 0.5, 0.01, 40_000, 0.015, marks=pytest.mark.slow),
    ],
)
def test_release_within_an_allowance_of_noise_added_before_is_not_guaranteed(
    sigma: float, epsilon: float, delta: float, draws: int, least: float
) -> None:
    after, never = released_within_an_allowance(sigma, epsilon, delta)
    lower, _ = needed_delta(epsilon, never, after, draws)
    assert lower > least > delta
