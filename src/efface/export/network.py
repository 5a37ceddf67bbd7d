"""The network that came in, with a debiased last layer in place of its own."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from efface.debiased import Debiased, RepresentedHead
from efface.erasure.linear import linear_layer
from efface.models.base import Model
from efface.models.wrapped import Wrapped, unwrap
from efface.representations import Rectified, Representation


class Attribute:
    """Holds the protected attribute `[n]` of a batch while a network that needs it computes."""

    value: Tensor | None = None


class HeadByAttribute(nn.Module):
    """A linear layer for each value of the protected attribute.

    Args:
        layers: one for each value, of one shape.
        attribute: what holds the values of a batch.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layers: Sequence[nn.Linear], attribute: Attribute) -> None:
        super().__init__()
        self.register_buffer("weight", torch.stack([layer.weight for layer in layers]))
        self.register_buffer("bias", torch.stack([layer.bias for layer in layers]))
        self._attribute = attribute

    def forward(self, x: Tensor) -> Tensor:
        assert self._attribute.value is not None
        of_each = nn.functional.linear(x, self.weight.flatten(0, 1), self.bias.flatten())
        of_each = of_each.unflatten(1, self.bias.shape)
        index = self._attribute.value.long()[:, None, None].expand(-1, 1, of_each.shape[2])
        logits: Tensor = of_each.gather(1, index)[:, 0]
        return logits


class HeadBehindMap(RepresentedHead):
    """A linear layer behind a map of its inputs that is not affine, or in front of decisions by chance.

    Args:
        debiased: the map, the layer, and what decides.
        single: whether it returns one logit, the difference of two.
        attribute: what holds the protected attributes of a batch, where they are needed.
    """

    def __init__(self, debiased: Debiased, *, single: bool, attribute: Attribute) -> None:
        super().__init__(debiased.represent, debiased.head, debiased.decide)
        self._single, self._attribute = single, attribute

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        values = self._attribute.value if a is None else a
        logits = super().forward(x, None if values is None else values.long())
        return logits.diff(dim=1) if self._single else logits


@dataclass(frozen=True)
class Network:
    """A whole debiased network, called as the one that came in."""

    module: nn.Module
    head: nn.Module
    """Its last layer."""
    folded: bool
    """Whether its architecture and the names of its parameters are those of the one that came in."""
    uses_attribute: bool = False
    attribute: Attribute = field(default_factory=Attribute)
    """What it reads the protected attribute from, where it uses that."""


def debiased_network(model: Model, debiased: Debiased, n_attributes: int) -> Network:
    """Put a debiased last layer, or several, into a copy of a network.

    A map of features that is affine, followed by the head, is one linear layer; re-trained linear layers take the place
    of those they were trained from. Other maps stay in front of the head.

    Args:
        model: the base model of the run.
        debiased: what the method made of it.
        n_attributes: how many values the protected attribute has.
    """
    model, debiased = copy.deepcopy(model).cpu(), copy.deepcopy(debiased)
    represent, head = debiased.represent.cpu(), debiased.head.cpu()
    if debiased.cut > 1 and isinstance(represent, Rectified):
        layers = [layer for layer in model.cut(debiased.cut)[1] if isinstance(layer, nn.Linear)]
        return Network(_with_layers(model, layers, [*represent.layers(), head]), head, folded=True)
    attribute = Attribute()
    if debiased.decide is not None or not represent.is_affine:
        single = isinstance(model.backbone, Wrapped) and model.backbone.single
        behind = HeadBehindMap(debiased, single=single, attribute=attribute)
        whole = _with_last(model, behind)
        return Network(whole, behind, folded=False, uses_attribute=debiased.uses_attribute, attribute=attribute)
    if represent.uses_attribute:
        of_each = [_as_came_in(model, folded(represent, head, a)) for a in range(n_attributes)]
        layer = HeadByAttribute(of_each, attribute)
        return Network(_with_last(model, layer), layer, folded=False, uses_attribute=True, attribute=attribute)
    last = _as_came_in(model, folded(represent, head))
    fits = (last.bias is None) == (model.head.bias is None)
    return Network(_with_last(model, last), last, folded=fits)


@torch.enable_grad()
def folded(represent: Representation, head: nn.Linear, a: int | None = None) -> nn.Linear:
    """Return the linear layer that computes `head(represent(x, a))`, for a map that is affine in x `[n, d]`.

    With r(x) = P x + m, W' = W P and b' = W m + b: the derivative and the value at zero. So they are computed, in
    float64, whatever the map is made of. Cost: one backward pass of the map for each logit.

    Args:
        represent: the map; it keeps the number of features.
        head: the layer behind it.
        a: value of the protected attribute, for a map that uses it.
    """
    represent, wide = copy.deepcopy(represent).double(), copy.deepcopy(head).double()
    value = None if a is None else torch.tensor([a])

    def logits(x: Tensor) -> Tensor:
        y: Tensor = wide(represent(x[None], value))[0]
        return y

    zero = torch.zeros(head.in_features, dtype=torch.float64)
    weight = torch.autograd.functional.jacobian(logits, zero)
    bias = logits(zero).detach()
    needs_bias = "bias" in head.state_dict() or represent.uses_attribute or bool(bias.any())
    return linear_layer(weight.float(), bias.float() if needs_bias else None)


def _as_came_in(model: Model, layer: nn.Linear) -> nn.Linear:
    """Return a layer of two logits as one of their difference, where the network that came in has one logit."""
    if not (isinstance(model.backbone, Wrapped) and model.backbone.single):
        return layer
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    return linear_layer(weight.diff(dim=0), None if bias is None else bias.diff(dim=0))


def _with_last(model: Model, layer: nn.Module) -> nn.Module:
    """Return the network that came in, with another last layer."""
    if not isinstance(model.backbone, Wrapped):
        model.set_submodule("head", layer)
        return model.eval()
    module = unwrap(model)
    module.set_submodule(model.backbone.name, layer)
    return module.eval()


def _with_layers(model: Model, old: Sequence[nn.Linear], new: Sequence[nn.Linear]) -> nn.Module:
    """Return a model with some of its linear layers replaced."""
    names = {id(module): name for name, module in model.named_modules()}
    for layer, other in zip(old, new, strict=True):
        model.set_submodule(names[id(layer)], other)
    return model.eval()
