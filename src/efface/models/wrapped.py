"""Any classifier as a `Model`: the head is its last linear layer, the features are what reaches that layer."""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from efface.data.text import some
from efface.models.arguments import Example, as_tensor
from efface.models.base import Model, lacks_weights
from efface.models.last_layer import HeadError, call, close, find_head, named_head, only_head, outputs_of, replace_layer

_ROWS = 8
"""Samples of an example on which a module is tried."""


class Wrapped(nn.Module):
    """A classifier below its last linear layer: maps inputs to the features `[n, d]` that reach that layer.

    Args:
        module: the classifier; its layers and parameters keep their names. The layer `name` is replaced.
        name: of its last linear layer.
        prepare: makes what `module` is called with out of the inputs: a tensor, or arguments by name.
        output: where `name` acts on every position of a sequence and the module picks one of them: which of the
            module's outputs are the logits. None where it acts on features `[n, d]`: the forward ends there.
        single: whether that layer has one output, the logit of a sigmoid.
    """

    def __init__(
        self, module: nn.Module, name: str, prepare: nn.Module, *, output: int | None = None, single: bool = False
    ) -> None:
        super().__init__()
        layer = cast(nn.Linear, module.get_submodule(name))
        self.parameter_names = tuple(sorted(layer.state_dict()))
        replace_layer(module, name, _Stop() if output is None else nn.Identity())
        self.tied = tuple(name for name, p in module.named_parameters() if any(p is q for q in layer.parameters()))
        self.module, self.prepare = module, prepare
        self.name, self.output, self.single = name, output, single

    def forward(self, x: Tensor) -> Tensor:
        if self.output is not None:
            return _of_rows(outputs_of(call(self.module, self.prepare(x)))[self.output], len(x))
        try:
            call(self.module, self.prepare(x))
        except _Reached as reached:
            features = _of_rows(reached.x, len(x))
            if features.ndim != 2:
                raise HeadError(
                    f"head={self.name} acts on inputs of shape {list(reached.x.shape)}, not [n, d]: give wrap an "
                    "example, on which it can see what becomes of them"
                ) from None
            return features
        raise HeadError(
            f"head={self.name} is not used by the module's forward, or not under that name: name the layer that gives "
            "the logits, and have forward call it as a submodule"
        )


def wrap(
    module: nn.Module,
    *,
    head: str | None = None,
    example: Example | None = None,
    prepare: nn.Module | None = None,
    pretrained: bool = True,
) -> Model:
    """Make a classifier a `Model` whose `head(backbone(x))` is `module(x)`, in float32 and evaluation mode.

    The module is copied, and stays as it is. The backbone is a `Wrapped`, and `backbone.module` the copy, whose
    parameters keep their names. A head with one output, the logit of a sigmoid, becomes one of two: `[0, logit]`, whose
    softmax is the same.

    Args:
        module: returns logits `[n, K]`; `[n, 1]` or `[n]` of a sigmoid; a tuple of tensors that has them; or an object
            or a mapping with `logits`, as models of `transformers` do.
        head: the name of the `nn.Linear` that gives the logits; None where the module has only one such layer.
        example: some inputs, on which all is checked; of several named ones the model takes the tensor that
            `model.backbone.prepare.pack` makes of them, see `Arguments`. Without an example nothing is checked, and
            the only linear layer of the module is the head.
        prepare: makes what `module` is called with out of inputs like `example`; None where they are the same.
        pretrained: whether the module has weights from elsewhere, and is of use as it is.

    Raises:
        HeadError: no linear layer is the head, or several are, or not that which is named: something comes after it,
            it acts twice, or not on features `[n, d]`.
        ValueError: the module cannot be copied, or its outputs on the example are not finite, differ each time, or
            depend on other samples; or it changes its inputs; or the example is none.

    Cost: a copy of the module, and four forward passes over a few samples.
    """
    module = _copy(module)
    if example is None:
        name = only_head(module) if head is None else named_head(module, head)
        return _build(module, name, prepare or nn.Identity(), output=None, pretrained=pretrained)
    x, prepare = as_tensor(example, prepare)
    x = x[:_ROWS].to(_device(module), torch.float32)
    given = x.clone()
    with torch.no_grad():
        layer = find_head(module, head, prepare(given))
        if not torch.equal(given, x):
            raise ValueError("module changes its inputs in place: have it work on a copy, as without inplace=True")
        model = _build(module, layer.name, prepare, output=layer.output, pretrained=pretrained)
        expected = _two_logits(layer.logits) if _wrapped(model).single else layer.logits
        if not close(model(x), expected):
            raise HeadError(
                f"head={layer.name} gives other logits a second time: in evaluation mode, the module must compute the "
                "same from the same inputs, without noise or memory, and its head no more than a linear layer"
            )
        part = len(x) // 2
        if part > 1 and not close(model(x[:part]), expected[:part]):
            raise ValueError(
                "module gives a sample other logits beside other samples: in evaluation mode it must use no statistics "
                "of the batch, as BatchNorm with track_running_stats=False does"
            )
    return model


def unwrap(model: Model, head: nn.Linear | None = None) -> nn.Module:
    """Return the classifier that `wrap` was given, in the model's weights, with a new last layer.

    Its architecture and the names of its parameters are those of the classifier that came in. It is called as that is:
    what `prepare` does to inputs is not part of it.

    Args:
        model: made by `wrap`.
        head: of the shape of `model.head`; None for that itself. In place of a head with one output, its two logits
            become their difference.

    Raises:
        ValueError: the model is not made by `wrap`, or the head has another shape, or a bias where there was none; or
            the classifier keeps the weights of its last layer in another form, or shares them.
    """
    wrapped, old, head = _wrapped(model), model.head, model.head if head is None else head
    if head.weight.shape != old.weight.shape:
        raise ValueError(
            f"head has weights {list(head.weight.shape)}, but that of the model has {list(old.weight.shape)}: features "
            "that a method made narrower or wider need their map in front of the head"
        )
    weight, bias = _parameters(head)
    has_bias = _parameters(old)[1] is not None
    if not has_bias and bias is not None and bool(bias.any()):
        raise ValueError("head has a bias, but the module's last layer has none: it cannot be put in its place")
    if wrapped.single:
        weight, bias = weight.diff(dim=0), None if bias is None else bias.diff(dim=0)
    if has_bias and bias is None:
        bias = weight.new_zeros(len(weight))
    _require_own_weights(wrapped, weight)
    module = copy.deepcopy(wrapped.module)
    replace_layer(module, wrapped.name, _linear(weight, bias if has_bias else None))
    return module


def _require_own_weights(wrapped: Wrapped, weight: Tensor) -> None:
    """ValueError if a state dict could not give a classifier of the same class this weight of its last layer."""
    derived = set(wrapped.parameter_names) - {"weight", "bias"}
    if derived:
        raise ValueError(
            f"the module's last layer, {wrapped.name}, computes its weights from {some(sorted(derived))}: take the "
            "parametrisation off first, torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
        )
    if any(not torch.equal(wrapped.module.get_parameter(name), weight) for name in wrapped.tied):
        raise ValueError(
            f"the module's last layer, {wrapped.name}, shares its weights with {some(wrapped.tied)}, which another "
            "head would change too: have the module keep a copy of its own"
        )


def _of_rows(features: Tensor, n: int) -> Tensor:
    """Give features `[d]` of one sample, whose row a module has squeezed away, their row back."""
    return features[None] if features.ndim == 1 and n == 1 else features


class _Reached(BaseException):
    """Ends a forward pass; no `except Exception` on its way out stops it.

    Args:
        x: what reached the layer.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


class _Stop(nn.Module):
    """Stands in place of a head, and ends the forward pass of the module that holds it."""

    def forward(self, input: Tensor) -> Tensor:  # named as that of nn.Linear
        raise _Reached(input)


def _build(module: nn.Module, name: str, prepare: nn.Module, *, output: int | None, pretrained: bool) -> Model:
    layer = cast(nn.Linear, module.get_submodule(name))
    single = layer.out_features == 1
    weight, bias = _parameters(layer)
    if single:
        weight, bias = _two_logits(weight.T).T, None if bias is None else _two_logits(bias[None])[0]
    head = _linear(weight, bias)
    backbone = Wrapped(module, name, prepare, output=output, single=single)
    return Model(backbone, head, pretrained=pretrained, whole=pretrained).eval()


def _parameters(layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
    bias: Tensor | None = layer.bias
    return layer.weight.detach(), None if bias is None else bias.detach()


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a layer of its own with these weights and biases."""
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=bias is not None, device=weight.device, dtype=weight.dtype)
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return layer


def _two_logits(logit: Tensor) -> Tensor:
    """Return `[n, 2]`, zero and the logit `[n, 1]` of a sigmoid: their softmax is that sigmoid."""
    return torch.cat([torch.zeros_like(logit), logit], 1)


def _copy(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Linear):
        raise HeadError("head: the module is itself the linear layer: hand over nn.Sequential(nn.Flatten(), module)")
    if isinstance(module, torch.jit.ScriptModule):
        raise HeadError(
            "head: the module is a script of torch.jit, which has no nn.Linear: hand over what it was made of"
        )
    if not isinstance(module, nn.Module):
        raise ValueError(f"module is a {type(module).__name__}, but must be a torch.nn.Module")
    if lacks_weights(module):
        raise ValueError(
            "module has layers that have no weights yet (nn.LazyLinear, or the meta device): call it once on an "
            "example, or load its weights"
        )
    try:
        return copy.deepcopy(module).float().eval()
    except Exception as error:  # of whatever the module holds
        raise ValueError(
            f"module cannot be copied ({type(error).__name__}: {error}): hand over one that can"
        ) from error


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def _wrapped(model: Model) -> Wrapped:
    if not isinstance(model.backbone, Wrapped):
        raise ValueError("model was not made by efface.models.wrapped.wrap, so there is no module to go back to")
    return model.backbone
