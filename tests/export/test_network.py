from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from efface.debiased import Debiased
from efface.decisions import Drawn, keys
from efface.erasure.igbp import IgbpEraser
from efface.erasure.leace import LeaceEraser
from efface.erasure.obliviator import ObliviatorEraser
from efface.erasure.oracle import OracleEraser
from efface.erasure.quadratic import QuadraticEraser
from efface.erasure.quadratic_free import PosteriorQuadraticEraser
from efface.export.network import debiased_network, folded
from efface.export.stored import like, reference, two_logits
from efface.export.whole import Logits
from efface.models.base import Model
from efface.models.mlp import mlp
from efface.representations import (
    KINDS,
    InUnitBall,
    LinearlyErased,
    Oblivious,
    OracleErased,
    QuadraticallyErased,
    QuadraticallyErasedFree,
    Rectified,
    Repaired,
    Representation,
    SteppedByNetworks,
    WithoutColumns,
)

N, D, K = 200, 6, 3
DROPPED = {"dropped": torch.arange(D) == 2, "constant": torch.full((D,), 0.5)}


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.arange(N) % 2
    return torch.randn(N, D, generator=generator) + a[:, None], a


def linear() -> LinearlyErased:
    return LinearlyErased(**DROPPED, **LeaceEraser.fit(*samples()).tensors())


def by_attribute() -> list[Representation]:
    x, a = samples()
    oracle, quadratic = OracleEraser.fit(x, a), QuadraticEraser.fit(x, a)
    return [OracleErased(**DROPPED, **oracle.tensors()), QuadraticallyErased(**DROPPED, **quadratic.tensors())]


def repaired() -> Repaired:
    """Ten values of each feature, each under either value of the attribute moved up or down."""
    values = torch.linspace(-2, 2, 10).repeat(2 * D)
    shift = torch.tensor([0.5, -0.5]).repeat_interleave(10 * D)
    return Repaired(values=values, repaired=values + shift, ends=10 * torch.arange(1, 2 * D + 1).view(2, D))


def drawn(attributes: int) -> Drawn:
    """Two rules, the second of which turns the decision round."""
    share = torch.tensor([[0.8, 0.2], [0.4, 0.6]], dtype=torch.float64)[:attributes]
    slope = torch.tensor([[1.0, -1.0]], dtype=torch.float64).repeat(attributes, 1)
    column = torch.zeros(2, dtype=torch.int64)
    return Drawn(probability=share, slope=slope, offset=0 * slope, column=column, key=keys(D, 0))


@pytest.mark.parametrize("make", [Representation, linear, lambda: WithoutColumns(**DROPPED)])
@pytest.mark.parametrize("bias", [True, False])
def test_affine_maps_fold_into_the_head(make: Callable[[], Representation], bias: bool) -> None:
    represent, head = make(), nn.Linear(D, K, bias=bias)
    layer = folded(represent, head)
    x = torch.randn(50, D)
    torch.testing.assert_close(layer(x), head(represent(x)), atol=1e-6, rtol=1e-5)


def test_folding_is_the_product_of_head_and_projection() -> None:
    x, a = samples()
    eraser, head = LeaceEraser.fit(x.double(), a), nn.Linear(D, K)
    none = {"dropped": torch.zeros(D, dtype=torch.bool), "constant": torch.zeros(D)}
    layer = folded(LinearlyErased(**none, **eraser.tensors()), head)
    assert eraser.bias is not None
    weight, bias = head.weight.double(), head.bias.double()
    torch.testing.assert_close(layer.weight, (weight @ eraser.P).float())
    constant = (torch.eye(D).double() - eraser.P) @ eraser.bias
    torch.testing.assert_close(layer.bias, (bias + weight @ constant).float())


def test_every_kind_of_representation_is_affine_or_said_not_to_be() -> None:
    x, a = samples()
    maps = [Representation(), linear(), WithoutColumns(**DROPPED), *by_attribute()]
    maps += [InUnitBall(max_norm=torch.tensor(1.0)), Rectified(weight_0=torch.randn(4, D)), repaired()]
    maps += [QuadraticallyErasedFree(**DROPPED, **PosteriorQuadraticEraser.fit(x, a).tensors())]
    maps += [SteppedByNetworks(**DROPPED, **IgbpEraser.fit(x, a, iterations=1, width=4).tensors())]
    maps += [Oblivious(**DROPPED, **ObliviatorEraser.fit(x, a, iterations=1, width=4, features=20, steps=2).tensors())]
    assert {represent.kind for represent in maps} == set(KINDS)
    for represent in maps:
        middle = represent((x[:50] + x[50:100]) / 2, a[:50])
        mean = (represent(x[:50], a[:50]) + represent(x[50:100], a[:50])) / 2
        assert torch.allclose(middle, mean, atol=1e-5) == represent.is_affine, represent.kind


@pytest.mark.parametrize("number", [0, 1])
def test_attribute_chooses_among_linear_layers(number: int) -> None:
    represent, head = by_attribute()[number], nn.Linear(D, K)
    x, a = samples()
    network = debiased_network(Model(nn.Flatten(), head), Debiased(represent, head), 2)
    assert network.uses_attribute
    assert not network.folded
    network.attribute.value = a
    torch.testing.assert_close(network.module(x), head(represent(x, a)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attributes", [1, 2])
@pytest.mark.parametrize("represent", [Representation(), repaired()], ids=["unchanged", "repaired"])
def test_drawn_decisions_and_repaired_features_are_part_of_the_network(
    represent: Representation, attributes: int
) -> None:
    debiased = Debiased(represent, nn.Linear(D, 2), decide=drawn(attributes))
    x, a = samples()
    network = debiased_network(Model(nn.Flatten(), debiased.head), debiased, 2)
    assert network.uses_attribute == debiased.uses_attribute == (represent.uses_attribute or attributes == 2)
    assert not network.folded
    network.attribute.value = a if network.uses_attribute else None
    expected = debiased(x, a)
    torch.testing.assert_close(network.module(x), expected)
    assert 0.05 < float((expected.argmax(1) != debiased.head(x).argmax(1)).double().mean()) < 0.95
    logits, _ = reference(debiased, x, a)
    torch.testing.assert_close(logits.float(), expected, atol=1e-5, rtol=1e-5)
    inputs = (x, a) if network.uses_attribute else (x,)
    program = torch.export.export(Logits(network, None, 0).eval(), inputs, strict=False)
    torch.testing.assert_close(program.module()(*inputs), expected)


def test_relearned_layers_take_the_place_of_their_own() -> None:
    model = mlp(input_shape=(D,), n_classes=K, hidden=[5, 4])
    weights = {"weight_0": torch.randn(4, 5), "bias_0": torch.randn(4)}
    debiased = Debiased(Rectified(**weights), nn.Linear(4, K), cut=2)
    network = debiased_network(model, debiased, 2)
    x, _ = samples()
    expected = debiased(model.cut(2)[0](x))
    torch.testing.assert_close(network.module(x), expected)
    assert network.folded
    assert network.module.state_dict().keys() == model.state_dict().keys()


def test_head_without_bias_takes_none() -> None:
    model = mlp(input_shape=(D,), n_classes=K, hidden=[D], head_bias=False)
    network = debiased_network(model, Debiased(linear(), model.head), 2)
    x, _ = samples()
    assert not network.folded
    torch.testing.assert_close(network.module(x), model.head(linear()(model.backbone(x))), atol=1e-6, rtol=1e-5)


def test_certified_map_stays_in_front_of_the_head() -> None:
    model = mlp(input_shape=(D,), n_classes=K, hidden=[5])
    debiased = Debiased(InUnitBall(max_norm=torch.tensor(0.1)), nn.Linear(5, K))
    network = debiased_network(model, debiased, 2)
    x, _ = samples()
    assert not network.folded
    torch.testing.assert_close(network.module(x), debiased(model.backbone(x)))


def test_rounding_is_judged_by_the_terms_of_a_logit() -> None:
    """To 1e-5, unless terms cancel so far that float32 holds no more."""
    x, head = torch.randn(8, D), nn.Linear(D, K)
    logits, tolerance = reference(Debiased(represent=Representation(), head=head), x, None)
    assert logits.dtype == torch.float64
    assert tolerance == 1e-5
    torch.testing.assert_close(logits.float(), head(x))
    large = nn.Linear(2, K)
    large.load_state_dict({"weight": torch.tensor([[1e4, -1e4]] * K), "bias": torch.zeros(K)})
    _, tolerance = reference(Debiased(represent=Representation(), head=large), torch.ones(8, 2), None)
    assert tolerance == pytest.approx(2**-22 * 4e4)


@pytest.mark.parametrize(("shape", "alike"), [((8, 2), True), ((8, 1), True), ((8,), True), ((8, 3), False)])
def test_logits_take_the_form_of_the_network(shape: tuple[int, ...], alike: bool) -> None:
    logits = torch.randn(8, 2)
    formed = like(logits, torch.zeros(shape))
    assert (formed is not None) == alike
    if formed is not None:
        assert formed.shape == shape
        torch.testing.assert_close(two_logits(formed).softmax(1), logits.softmax(1))
