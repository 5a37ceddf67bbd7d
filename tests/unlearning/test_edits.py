from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from efface.unlearning.bias import CounterfactualBias
from efface.unlearning.edits import check_labels, check_pairs, external, published_step, replaced, without
from efface.unlearning.head import Head, head_of, head_parameters
from efface.unlearning.layers import Layers
from efface.unlearning.objective import TrainingObjective

HEAD = Head(n_classes=3, tol=1e-10)


def biased_data(n: int = 400, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x whose last columns tell the label in 95 % of the rows, y, and x with those columns those of another label."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    a = torch.where(torch.rand(n, generator=g) < 0.95, y, (y + 1) % 3)
    a_cf = (a + 1 + torch.randint(2, (n,), generator=g)) % 3
    core = nn.functional.one_hot(y, 3) + 0.8 * torch.randn(n, 3, generator=g)
    x, x_cf = (torch.cat([core, 3.0 * nn.functional.one_hot(v, 3)], 1) for v in (a, a_cf))
    return x, y, x_cf


def minimum(objective: TrainingObjective, trainable: Head = HEAD) -> Tensor:
    d = objective.x.shape[1] + trainable.bias
    return trainable.minimise(objective, torch.zeros(3, d, dtype=torch.float64), max_iter=100).theta


def full_gradient(objective: TrainingObjective, theta: Tensor, trainable: Head = HEAD) -> Tensor:
    f = trainable.objective(objective)
    return f.gradient(theta, f.logits(theta).softmax(1))


def unbiased_accuracy(theta: Tensor) -> float:
    x, y, x_cf = biased_data(3000, seed=9)
    hits = [(HEAD.logits(theta, v).argmax(1) == y).double().mean() for v in (x, x_cf)]
    return float(sum(hits) / 3 * 1 + hits[1] / 3)  # a third of the colours is the class's own


@pytest.mark.parametrize("bias", [True, False])
def test_external_is_the_convex_sum(bias: bool) -> None:
    x, y, x_cf = biased_data()
    trainable = Head(n_classes=3, bias=bias, tol=1e-9)
    objective = TrainingObjective(x=x, y=y, l2=1e-3)
    theta = minimum(objective, trainable)
    edited = external(objective, theta, x_cf[:50], y[:50], alpha=0.7)
    at = torch.randn(theta.shape, dtype=torch.float64)
    losses = lambda x, y: nn.functional.cross_entropy(trainable.logits(at, x), y)  # noqa: E731
    f = trainable.objective(edited)
    by_hand = 0.3 * losses(x, y) + 0.7 * losses(x_cf[:50], y[:50]) + 5e-4 * (at - theta).square().sum()
    assert float(f.value(at, f.logits(at))) == pytest.approx(float(by_hand))
    found = trainable.minimise(edited, theta, max_iter=100)
    assert found.converged
    assert float(full_gradient(edited, found.theta, trainable).abs().max()) <= 1e-9


def test_external_debiases_and_damped_steps_never_climb() -> None:
    x, y, x_cf = biased_data()
    objective = TrainingObjective(x=x, y=y, l2=1e-4)
    theta = minimum(objective)
    edited = external(objective, theta, x_cf[:100], y[:100], alpha=0.8)
    f = HEAD.objective(edited)
    values = []
    for steps in range(6):
        at = HEAD.minimise(edited, theta, max_iter=steps).theta
        values.append(float(f.value(at, f.logits(at))))
    assert values == sorted(values, reverse=True)
    assert unbiased_accuracy(minimum(edited)) > unbiased_accuracy(theta) + 0.1


def test_without_and_replaced_are_training_on_the_edited_set() -> None:
    x, y, x_cf = biased_data()
    objective = TrainingObjective(x=x, y=y, l2=1e-3)
    rows = torch.arange(0, 90, 3)
    smaller = without(objective, rows)
    assert len(smaller.y) == len(y) - 30
    edited = replaced(objective, rows, x_cf[rows])
    assert torch.equal(edited.x[rows], x_cf[rows])
    assert torch.equal(objective.x, x), "the objective was changed"
    by_hand = x.clone()
    by_hand[rows] = x_cf[rows]
    torch.testing.assert_close(minimum(edited), minimum(TrainingObjective(x=by_hand, y=y, l2=1e-3)), atol=1e-7, rtol=0)
    weighted = replace(objective, weight=torch.ones(len(y)))
    torch.testing.assert_close(minimum(without(weighted, rows)), minimum(smaller), atol=1e-7, rtol=0)


def test_the_published_step_is_the_formula() -> None:
    x, y, x_cf = biased_data()
    objective = TrainingObjective(x=x, y=y, l2=1e-2)
    theta = minimum(objective)
    f = HEAD.objective(objective)
    p = f.logits(theta).softmax(1)
    rows = torch.arange(20)

    def summed(x: Tensor) -> Tensor:
        losses = lambda t: nn.functional.cross_entropy(HEAD.logits(t, x), y[rows], reduction="sum")  # noqa: E731
        return torch.autograd.functional.jacobian(losses, theta)

    difference = summed(x[rows]) - summed(x_cf[rows])
    by_hand = theta + torch.linalg.solve(len(y) * f.hessian(p), difference.flatten()).view_as(theta)
    inverse = HEAD.inverse(objective, theta, "auto", 0)
    pairs = {"removed": (x[rows], y[rows]), "added": (x_cf[rows], y[rows])}
    torch.testing.assert_close(published_step(HEAD, objective, theta, inverse, **pairs), by_hand)
    # And one sample removed at a time it is the first order of exact re-training.
    one = rows[:1]
    stepped = published_step(HEAD, objective, theta, inverse, removed=(x[one], y[one]))
    exact = minimum(without(objective, one))
    assert float((stepped - exact).norm()) < 0.5 * float((theta - exact).norm())


def test_a_full_step_can_destroy_what_damped_steps_mend() -> None:
    x, y, x_cf = biased_data()
    x, x_cf = (torch.cat([v[:, :3], 4 * v[:, 3:]], 1) for v in (x, x_cf))
    objective = TrainingObjective(x=x, y=y, l2=1e-6)
    theta = minimum(objective) * 5  # over-confident
    inverse = HEAD.inverse(objective, theta, "auto", 0)
    stepped = published_step(HEAD, objective, theta, inverse, removed=(x, y), added=(x_cf, y))
    damped = minimum(external(objective, minimum(objective), x_cf, y, alpha=0.8))

    def loss(theta: Tensor) -> float:
        return float(nn.functional.cross_entropy(HEAD.logits(theta, x_cf), y))

    assert loss(damped) < loss(theta) < loss(stepped)


def test_a_failed_step_says_so() -> None:
    x, y, x_cf = biased_data()
    objective = TrainingObjective(x=x, y=y, l2=1e-3)
    theta = minimum(objective)
    before = theta.clone()

    class Broken:
        damping = 0.0

        def __call__(self, b: Tensor) -> Tensor:
            return b / 0

    with pytest.raises(ArithmeticError, match="the model is as it was"):
        published_step(HEAD, objective, theta, Broken(), removed=(x, y), added=(x_cf, y))
    assert torch.equal(theta, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda objective, x: without(objective, torch.arange(400)), "all 400 samples would leave"),
        (lambda objective, x: without(objective, torch.tensor([3, 3])), "names 1 samples twice"),
        (lambda objective, x: without(objective, torch.tensor([400])), "must lie in 0 … 399"),
        (lambda objective, x: without(objective, torch.tensor([-1])), "must lie in 0 … 399"),
        (lambda objective, x: without(objective, torch.arange(0, 400, 3)), r"no sample of classes \[0\] would be left"),
        (lambda objective, x: replaced(objective, torch.arange(400), x), "all 400 samples would leave"),
        (lambda objective, x: replaced(objective, torch.arange(4), x), "x_cf has shape"),
        (
            lambda objective, x: external(objective, torch.zeros(3, 7), x[:0], objective.y[:0], alpha=0.5),
            "pairs: there are none",
        ),
        (lambda objective, x: external(objective, torch.zeros(3, 7), x, objective.y, alpha=0.0), "alpha is 0"),
        (lambda objective, x: check_pairs(objective.y, objective.y.roll(1)), "the labels differ"),
        (lambda objective, x: check_pairs(objective.y, objective.y[:3]), "each needs its own"),
        (lambda objective, x: check_labels(objective.y, 4), r"no sample of classes \[3\]"),
        (
            lambda objective, x: published_step(
                HEAD,
                objective,
                torch.zeros(3, 7),
                lambda b: b,
                removed=(x, objective.y),
                added=(x, objective.y.roll(1)),
            ),  # type: ignore[arg-type]
            "the labels differ",
        ),
    ],
)
def test_bad_input(call: Callable[[TrainingObjective, Tensor], object], message: str) -> None:
    x, y, x_cf = biased_data()
    with pytest.raises(ValueError, match=message):
        call(TrainingObjective(x=x, y=y, l2=1e-3), x_cf)


def test_heads_with_and_without_bias_go_round() -> None:
    for bias in (True, False):
        head = nn.Linear(4, 3, bias=bias)
        again = head_of(head_parameters(head), bias=bias)
        torch.testing.assert_close(again.weight, head.weight)
        assert (again.bias is None) is (not bias)
    with pytest.raises(TypeError, match="head is a ReLU"):
        head_parameters(nn.ReLU())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a linear layer with 1 output"):
        head_parameters(nn.Linear(4, 1))


def test_layers_of_one_linear_layer_are_a_head() -> None:
    x, y, x_cf = biased_data()
    torch.manual_seed(0)
    linear = nn.Linear(6, 3)
    layers, objective = Layers(module=nn.Sequential(linear)), TrainingObjective(x=x, y=y, l2=1e-2)
    found = layers.minimise(objective, layers.parameters(), max_iter=50)
    assert found.converged
    named = layers.tensors(found.theta)
    exact = minimum(objective)
    torch.testing.assert_close(named["0.weight"].double(), exact[:, :-1], atol=2e-2, rtol=0)
    bias = CounterfactualBias(x[:60], x_cf[:60], y[:60])
    theirs = layers.influence(objective, found.theta, bias, layers.inverse(objective, found.theta, "auto", 0)).values
    ours = HEAD.influence(objective, exact, bias, HEAD.inverse(objective, exact, "auto", 0)).values
    assert float(torch.corrcoef(torch.stack([theirs.double(), ours]))[0, 1]) > 0.999
    with pytest.raises(ValueError, match="no Hessian to factor"):
        layers.inverse(objective, found.theta, "cholesky", 0)


def test_two_layers_learn_together() -> None:
    x, y, x_cf = biased_data()
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    layers, objective = Layers(module=module), TrainingObjective(x=x, y=y, l2=1e-3)
    start = layers.parameters()
    theta = layers.minimise(objective, start, max_iter=40).theta
    edited = external(objective, theta, x_cf[:150], y[:150], alpha=0.8)
    losses = [layers.point(edited, layers.minimise(edited, theta, max_iter=m).theta).value for m in (0, 2, 10)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(layers.parameters(), start), "the module was changed"
    gradient = layers.gradient_sum(start, x, y)
    module(x).log_softmax(1).gather(1, y[:, None]).neg().sum().backward()
    torch.testing.assert_close(gradient, torch.cat([p.grad.flatten() for p in module.parameters()]))  # type: ignore[union-attr]
