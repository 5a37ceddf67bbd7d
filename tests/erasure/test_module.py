"""Erasers as modules, and merged into linear layers: what is traced, moved, loaded and folded computes the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.erasure.test_leace import data
from torch import Tensor, nn
from torch.export import Dim, export

import efface
from efface.debiased import Debiased
from efface.erasure.frozen import FrozenTensors
from efface.erasure.quadratic import QuadraticFitter
from efface.representations import InUnitBall, LinearlyErased, QuadraticallyErased


def fitted(name: str) -> tuple[FrozenTensors, tuple[Any, ...]]:
    """Return an eraser, and what it is called with."""
    x, _, y = data()
    by_name: dict[str, Callable[[], tuple[FrozenTensors, tuple[Any, ...]]]] = {
        "leace": lambda: (efface.LeaceEraser.fit(x, y), (x,)),
        "linear": lambda: (efface.LeaceEraser.fit(x, y, affine=False), (x,)),
        "rlace": lambda: (efface.RlaceEraser.fit(x, y, rank=1, solver="squared"), (x,)),
        "inlp": lambda: (efface.InlpEraser.fit(x, y, iterations=1), (x,)),
        "splince": lambda: (efface.SplinceEraser.fit(x, y, torch.arange(len(x)) % 2), (x,)),
        "oracle of labels": lambda: (efface.OracleEraser.fit(x, y), (x, y)),
        "oracle of columns": lambda: (efface.OracleEraser.fit(x, y[:, None].double()), (x, y[:, None].double())),
        "quadratic": lambda: (efface.QuadraticEraser.fit(x, y), (x, y)),
        "editor": lambda: (QuadraticFitter.fit(x, y).editor(), (x, y, 1)),
    }
    return by_name[name]()


AFFINE = ("leace", "linear", "rlace", "inlp", "splince")
NAMES = [*AFFINE, "oracle of labels", "oracle of columns", "quadratic", "editor"]


@pytest.mark.parametrize("name", NAMES)
def test_module_computes_what_the_eraser_does(name: str) -> None:
    eraser, arguments = fitted(name)
    module = eraser.module()
    assert torch.equal(module(*arguments), eraser(*arguments))  # type: ignore[operator]
    assert module.state_dict().keys() == eraser.tensors().keys()
    assert list(module.parameters()) == []
    for field in ("solution", "accuracies", "angle"):
        assert getattr(module.eraser, field, None) == getattr(eraser, field, None)


@pytest.mark.parametrize("name", NAMES)
def test_module_can_be_exported_for_any_number_of_rows(name: str) -> None:
    eraser, arguments = fitted(name)
    batch = Dim("batch", min=2)
    concept = tuple({0: batch} if isinstance(argument, Tensor) else None for argument in arguments[1:])
    free = ({0: batch}, concept) if concept else ({0: batch},)
    program = export(eraser.module(), arguments, dynamic_shapes=free, strict=False)
    assert program.state_dict.keys() == eraser.tensors().keys()
    few = tuple(argument[:7] if isinstance(argument, Tensor) else argument for argument in arguments)
    torch.testing.assert_close(program.module()(*few), eraser(*few))  # type: ignore[operator]


@pytest.mark.parametrize("name", ["leace", "oracle of labels", "quadratic"])
def test_module_is_one_graph_for_the_compiler(name: str) -> None:
    eraser, arguments = fitted(name)
    compiled = torch.compile(eraser.module(), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*arguments), eraser(*arguments))  # type: ignore[operator]


def test_module_stands_in_a_network() -> None:
    eraser, (x,) = fitted("leace")
    body, head = nn.Linear(x.shape[1], x.shape[1], dtype=x.dtype), nn.Linear(x.shape[1], 2, dtype=x.dtype)
    network = nn.Sequential(body, eraser.module(), head)
    expected = head(eraser(body(x)))  # type: ignore[operator]
    torch.testing.assert_close(network(x), expected)
    network(x).sum().backward()
    assert body.weight.grad is not None
    assert body.weight.grad.abs().max() > 0
    narrow = network.to(torch.float32)
    assert narrow(x.float()).dtype == torch.float32
    assert narrow[1].eraser.proj_left.dtype == torch.float32


def test_module_loads_a_state_and_takes_one_for_a_call() -> None:
    eraser, (x,) = fitted("leace")
    other = efface.LeaceEraser.fit(x.flip(1), data()[2])
    module = eraser.module()
    state = other.module().state_dict()
    torch.testing.assert_close(torch.func.functional_call(module, state, (x,)), other(x))
    torch.testing.assert_close(module(x), eraser(x))  # type: ignore[operator]
    module.load_state_dict(state)
    torch.testing.assert_close(module(x), other(x))


def test_module_has_tensors_of_its_own() -> None:
    eraser, (x,) = fitted("leace")
    expected = eraser(x)  # type: ignore[operator]
    eraser.module().get_buffer("proj_left").zero_()
    assert torch.equal(eraser(x), expected)  # type: ignore[operator]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_fold_exactly(affine: bool, bias: bool) -> None:
    x, _, y = data()
    d = x.shape[1]
    eraser = efface.LeaceEraser.fit(x + 3, y, affine=affine)
    before, after = nn.Linear(5, d, bias=bias, dtype=x.dtype), nn.Linear(d, 3, bias=bias, dtype=x.dtype)
    inputs = torch.randn(20, 5, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    folded = eraser.fold_into(linear_before=before)
    torch.testing.assert_close(folded(inputs), eraser(before(inputs)))
    assert (folded.bias is None) == (not affine and not bias)
    folded = eraser.fold_into(linear_after=after)
    torch.testing.assert_close(folded(x), after(eraser(x)))
    assert (folded.bias is None) == (not affine and not bias)


def test_layer_keeps_its_dtype_and_stays_as_it_was() -> None:
    eraser, (x,) = fitted("leace")
    layer = nn.Linear(x.shape[1], 3)
    weight = layer.weight.clone()
    folded = eraser.fold_into(linear_after=layer)  # type: ignore[attr-defined]
    assert torch.equal(layer.weight, weight)
    assert folded.weight.dtype == torch.float32
    torch.testing.assert_close(folded(x.float()), layer(eraser(x.float())), atol=1e-5, rtol=1e-5)  # type: ignore[operator]


def test_layers_that_do_not_fit_are_refused() -> None:
    eraser = efface.AffineEraser.orthogonal(torch.eye(4)[:, :1], None)
    with pytest.raises(ValueError, match="0 layers were given: give linear_before or linear_after"):
        eraser.fold_into()
    with pytest.raises(ValueError, match="2 layers were given"):
        eraser.fold_into(linear_before=nn.Linear(4, 4), linear_after=nn.Linear(4, 4))
    with pytest.raises(ValueError, match="linear_after has 5 features on the side of the eraser, which has 4"):
        eraser.fold_into(linear_after=nn.Linear(5, 4))
    with pytest.raises(ValueError, match="linear_before has 5 features"):
        eraser.fold_into(linear_before=nn.Linear(4, 5))
    with pytest.raises(ValueError, match="the eraser is complex"):
        eraser.to(torch.complex64).fold_into(linear_before=nn.Linear(4, 4))


def test_debiased_model_is_a_module() -> None:
    x, y = (t.float() if t.is_floating_point() else t for t in data()[::2])
    columns = {"dropped": torch.zeros(x.shape[1], dtype=torch.bool), "constant": torch.zeros(x.shape[1])}
    head = nn.Linear(x.shape[1], 2)
    affine = LinearlyErased(**columns, **efface.LeaceEraser.fit(x, y).tensors())
    for represent in (affine, InUnitBall(max_norm=torch.tensor(1.0))):
        debiased = Debiased(represent=represent, head=head)
        network = nn.Sequential(nn.Identity(), debiased.module())
        torch.testing.assert_close(network(x), debiased(x))
        program = export(network, (x,), dynamic_shapes=({0: Dim("batch", min=2)},), strict=False)
        torch.testing.assert_close(program.module()(x[:9]), debiased(x[:9]))
    by_attribute = Debiased(
        represent=QuadraticallyErased(**columns, **efface.QuadraticEraser.fit(x, y).tensors()), head=head
    )
    program = export(by_attribute.module(), (x, y), strict=False)
    torch.testing.assert_close(program.module()(x, y), by_attribute(x, y))
