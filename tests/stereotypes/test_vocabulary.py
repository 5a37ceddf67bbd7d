"""Gradients and Hessian products of an output layer, against autograd and dense algebra."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from efface.scrubbing.language_models import LanguageModel
from efface.stereotypes.ask import likelihood
from efface.stereotypes.queries import States, output_layer, output_states
from efface.stereotypes.unlearning import _require_plain
from efface.stereotypes.vocabulary import OutputLayer, VocabularyHessian

N, V, D = 12, 7, 4


@pytest.fixture
def layer() -> OutputLayer:
    generator = torch.Generator().manual_seed(0)
    return OutputLayer(torch.randn(V, D, generator=generator), torch.randn(V, generator=generator))


@pytest.fixture
def states() -> States:
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(V, (N,), generator=generator)
    return States(torch.randn(N, D, generator=generator), y, torch.arange(N) // 3)


def dense_hessian(layer: OutputLayer, x: Tensor) -> Tensor:
    """Of the mean cross-entropy, which the labels do not enter."""

    def loss(theta: Tensor) -> Tensor:
        return functional.linear(x.double(), theta.view(V, D), layer.bias.double()).logsumexp(1).mean()  # type: ignore[union-attr]

    return torch.autograd.functional.hessian(loss, layer.weight.double().flatten())


def test_gradient_is_that_of_autograd(layer: OutputLayer, states: States) -> None:
    coefficients = torch.linspace(-1, 2, N)
    theta = layer.weight.clone().requires_grad_()
    losses = functional.cross_entropy(functional.linear(states.x, theta, layer.bias), states.y, reduction="none")
    (losses * coefficients).sum().backward()
    assert torch.allclose(layer.gradient(states, coefficients), theta.grad, atol=1e-5)


def test_log_probabilities_come_back_by_query(layer: OutputLayer, states: States) -> None:
    values = layer.log_probabilities(states)
    assert [len(part) for part in values] == [3, 3, 3, 3]
    wanted = layer.logits(states.x).log_softmax(1).gather(1, states.y[:, None])[:, 0]
    assert torch.allclose(torch.cat(values), wanted.double(), atol=1e-5)
    other = torch.zeros_like(layer.weight)
    assert not torch.allclose(torch.cat(layer.log_probabilities(states, other)), wanted.double(), atol=1e-3)


def test_products_and_solutions_are_those_of_the_dense_hessian(layer: OutputLayer, states: States) -> None:
    hessian, dense = VocabularyHessian(layer, states.x), dense_hessian(layer, states.x)
    assert hessian.curvature >= float(torch.linalg.eigvalsh(dense)[-1])
    v = torch.randn(V, D, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(hessian.product(v).flatten().double(), dense @ v.flatten().double(), atol=1e-5)
    for damping in (1.0, 0.01):
        solution, products, residual = hessian.solve(v, damping=damping, tol=1e-5, max_iter=200)
        exact = torch.linalg.solve(dense + damping * torch.eye(V * D), v.flatten().double())
        assert torch.allclose(solution.flatten().double(), exact, rtol=1e-3, atol=1e-3)
        assert residual <= 1e-5
        assert 0 < products < 200


def test_preconditioner_is_symmetric_and_positive(layer: OutputLayer, states: States) -> None:
    apply = VocabularyHessian(layer, states.x).preconditioner(0.1)
    matrix = torch.stack([apply(row.view(V, D)).flatten() for row in torch.eye(V * D)])
    assert torch.allclose(matrix, matrix.mT, atol=1e-5)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > 0


def test_a_model_that_does_more_to_its_logits_is_refused(network: Callable[[str], LanguageModel]) -> None:
    lm = network("gpt2")
    layer = OutputLayer(output_layer(lm).weight)
    queries = likelihood(lm, "she is a nurse .")
    read = partial(output_states, lm, batch_tokens=64)
    _require_plain(lm, layer, queries, read)
    forward = lm.model.forward

    def capped(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = 2 * (output.logits / 2).tanh()
        return output

    lm.model.forward = capped
    with pytest.raises(ValueError, match="does more to its logits than its output layer says"):
        _require_plain(lm, layer, queries, read)
