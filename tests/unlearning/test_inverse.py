import math
from typing import Any

import pytest
import torch
from torch import Tensor

from efface.newton import conjugate_gradients
from efface.softmax import FACTORED, BinaryObjective, SoftmaxObjective, curved_factor, mean_block, minimise
from efface.unlearning.head import Head
from efface.unlearning.inverse import CgInverse, CholeskyInverse, LissaInverse, NotPositiveDefiniteError, head_inverse
from efface.unlearning.objective import TrainingObjective


def objective(n: int = 300, d: int = 5, k: int = 3, **options: Any) -> tuple[SoftmaxObjective, Tensor, Tensor]:
    """An objective, the softmax at some θ, and a right-hand side."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = torch.randint(k, (n,), generator=g)
    f = SoftmaxObjective(x, y, n_classes=k, l2=1e-2, penalise_bias=True, **options)
    theta = torch.randn(f.shape, generator=g, dtype=torch.float64)
    return f, f.logits(theta).softmax(1), torch.randn(f.shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_exact_and_cg_agree_with_the_inverse(k: int, bias: bool, damping: float) -> None:
    f, p, b = objective(k=k, bias=bias)
    hessian = f.hessian(p) + damping * torch.eye(b.numel(), dtype=torch.float64)
    exact = torch.linalg.solve(hessian, b.flatten()).view_as(b)
    for solver in ("auto", "cholesky", "cg"):
        torch.testing.assert_close(head_inverse(f, p, damping=damping, solver=solver)(b), exact, rtol=1e-6, atol=1e-8)


def test_lissa_agrees_up_to_its_noise() -> None:
    f, p, b = objective()
    exact = head_inverse(f, p, damping=0.3, solver="cholesky")(b)
    lissa = head_inverse(f, p, damping=0.3, solver="lissa")
    assert float((lissa(b) - exact).norm() / exact.norm()) < 0.02
    assert torch.equal(lissa(b), lissa(b))


def test_lissa_with_all_samples_is_exact() -> None:
    f, p, b = objective()
    whole = LissaInverse(lambda v, rows: f.product(p)(v), n=len(f.y), scale=20.0, damping=0.3, steps=2000)
    torch.testing.assert_close(whole(b), head_inverse(f, p, damping=0.3, solver="cholesky")(b), rtol=1e-4, atol=1e-4)


def test_the_factor_preconditions_well() -> None:
    f, p, b = objective(n=3000, d=30)
    factor = curved_factor(f, p)
    assert factor is not None
    with_it, without = (
        conjugate_gradients(f.product(p), b, precondition=m, tol=1e-8, max_iter=500) for m in (factor, lambda r: r)
    )
    assert with_it.residual < 1e-8
    assert with_it.iterations < without.iterations / 2


def test_mean_block_preconditions_two_classes_exactly() -> None:
    f, p, b = objective(n=2000, d=30, k=2)
    reduced = BinaryObjective(f)
    found = conjugate_gradients(
        reduced.product(p[:, 1:]), b[:1], precondition=mean_block(reduced, p[:, 1:]), tol=1e-5, max_iter=500
    )
    assert found.residual < 1e-5
    assert found.iterations <= 3


def test_large_heads_make_no_matrix_of_their_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    k, d, n = 80, 70, 400
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, d, generator=g), torch.arange(n) % k
    assert k * (d + 1) > FACTORED
    monkeypatch.setattr(SoftmaxObjective, "hessian", lambda *_, **__: pytest.fail("a Hessian was made"))
    head, law = Head(n_classes=k), TrainingObjective(x=x, y=y, l2=1e-3)
    found = head.minimise(law, torch.zeros(k, d + 1, dtype=torch.float64), max_iter=100)
    assert found.converged
    b = torch.randn(k, d + 1, generator=g, dtype=torch.float64)
    f = head.objective(law)
    solved = head.inverse(law, found.theta, "auto", 0)(b)
    residual = f.at(found.theta).product()(solved) - b
    assert float(residual.norm() / b.norm()) < 1e-5


def test_two_classes_need_a_penalty_or_damping_along_the_sum_of_their_rows() -> None:
    f, p, _ = objective(k=2)
    f.penalty[2] = 0
    for solver in ("cholesky", "cg"):
        with pytest.raises(NotPositiveDefiniteError, match="damping above"):
            head_inverse(f, p, solver=solver)
        head_inverse(f, p, solver=solver, damping=0.1)


def test_a_hessian_that_is_not_definite_names_the_damping_that_helps() -> None:
    hessian = torch.diag(torch.tensor([2.0, 1.0, -0.5], dtype=torch.float64))
    b = torch.ones(3, dtype=torch.float64)
    with pytest.raises(NotPositiveDefiniteError, match=r"eigenvalue of -0\.4 .* damping above 0\.505") as caught:
        CholeskyInverse(hessian, damping=0.1)
    assert isinstance(caught.value, ValueError)
    torch.testing.assert_close(CholeskyInverse(hessian, damping=0.6)(b), b / (hessian.diagonal() + 0.6))
    with pytest.raises(NotPositiveDefiniteError, match="not positive definite"):
        CgInverse(lambda v: hessian @ v, damping=0.1)(b)
    torch.testing.assert_close(CgInverse(lambda v: hessian @ v, damping=0.6)(b), b / (hessian.diagonal() + 0.6))
    # A head without penalty is curved nowhere along "one vector added to all rows".
    f, p, _ = objective()
    f.penalty.zero_()
    with pytest.raises(NotPositiveDefiniteError):
        head_inverse(f, p, solver="cholesky")


def test_failures_are_said() -> None:
    f, p, b = objective()
    with pytest.raises(ArithmeticError, match="raise damping"):
        CgInverse(f.product(p), damping=0.0, max_iter=2)(b)
    with pytest.raises(ArithmeticError, match="LiSSA diverged"):
        LissaInverse(lambda v, rows: f.product(p)(v), n=300, scale=1e-3, damping=0.1)(b)
    with pytest.raises(ValueError, match="LiSSA needs it positive"):
        head_inverse(f, p, solver="lissa")
    with pytest.raises(ValueError, match="solver is 'qr'"):
        head_inverse(f, p, solver="qr")  # type: ignore[arg-type]
    for damping in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="damping is"):
            head_inverse(f, p, damping=damping, solver="cholesky")


def test_per_sample_slopes_are_autograd_s() -> None:
    f, p, b = objective(n=20)
    theta = torch.randn(f.shape, dtype=torch.float64)
    p = f.logits(theta).softmax(1)

    def losses(t: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(f.logits(t), f.y, reduction="none")

    jacobian = torch.autograd.functional.jacobian(losses, theta)
    torch.testing.assert_close(f.sample_slopes(b, p), (jacobian * b).sum((1, 2)))


def test_a_centre_is_where_the_penalty_pulls() -> None:
    f, _, _ = objective()
    centre = torch.randn(f.shape, dtype=torch.float64)
    near = SoftmaxObjective(f.x[:, :-1], f.y, l2=1e6, penalise_bias=True, centre=centre)
    fit = minimise(near)
    torch.testing.assert_close(fit.theta, centre, atol=1e-5, rtol=0)
    value = lambda t: near.value(t, near.logits(t))  # noqa: E731
    theta = centre + 0.1
    p = near.logits(theta).softmax(1)
    torch.testing.assert_close(near.gradient(theta, p), torch.autograd.functional.jacobian(value, theta))
    with pytest.raises(ValueError, match="centre has shape"):
        SoftmaxObjective(f.x, f.y, centre=centre[:, :2])
