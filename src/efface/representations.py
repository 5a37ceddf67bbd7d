"""What becomes of the features: fixed maps, each of a kind that a saved model names.

A map is made of its tensors alone: `KINDS[kind](**tensors)` rebuilds it from its state.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from efface.erasure.affine import AffineEraser
from efface.erasure.frozen import FrozenTensors, OnBuffers
from efface.erasure.igbp import IgbpEraser
from efface.erasure.linear import linear_layer
from efface.erasure.obliviator import ObliviatorEraser
from efface.erasure.oracle import OracleEraser
from efface.erasure.quadratic import QuadraticEraser
from efface.erasure.quadratic_free import PosteriorQuadraticEraser
from efface.unlearning.certified.rows import into_unit_ball


class Representation(nn.Module):
    """A fixed map of features; this one leaves them as they are."""

    kind: ClassVar[str] = "unchanged"
    is_affine: ClassVar[bool] = True
    """Whether it is one affine map of x (for each value of the attribute), so that with a head it is a linear layer."""
    uses_attribute: ClassVar[bool] = False
    """Whether x cannot be mapped without `a`."""

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        """Map x `[n, d]`; `a` `[n]` is ignored unless the method uses the attribute at test time."""
        return x


class Erased(OnBuffers, Representation):
    """Features after an eraser, once columns that vary too rarely have been set to a constant.

    Args:
        dropped: `[d]` bool.
        constant: `[d]`, read where `dropped`.
        tensors: those of the eraser.
    """

    eraser_class: ClassVar[type[FrozenTensors]]
    dropped: Tensor
    constant: Tensor

    def __init__(self, *, dropped: Tensor, constant: Tensor, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in {"dropped": dropped, "constant": constant, **tensors}.items():
            self.register_buffer(name, tensor)
        self.eraser_class(**tensors)  # which refuses what is no part of it

    @property
    def eraser(self) -> Any:
        """An `eraser_class` that shares the buffers of this module."""
        return self._on_buffers(self.eraser_class)

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        x = torch.where(self.dropped, self.constant, x)
        erased: Tensor = self.eraser(x, a) if self.uses_attribute else self.eraser(x)
        return erased


class LinearlyErased(Erased):
    """Features after an affine map."""

    kind = "affine"
    eraser_class = AffineEraser


class OracleErased(Erased):
    """Features after an affine map of features and attribute."""

    kind = "oracle"
    eraser_class = OracleEraser
    uses_attribute = True


class QuadraticallyErased(Erased):
    """Features after an affine map for each value of the attribute."""

    kind = "quadratic"
    eraser_class = QuadraticEraser
    uses_attribute = True


class QuadraticallyErasedFree(Erased):
    """Features after the affine maps of all values of the attribute, mixed by their posterior."""

    kind = "quadratic_free"
    is_affine = False
    eraser_class = PosteriorQuadraticEraser


class SteppedByNetworks(Erased):
    """Features after the steps of networks, each to where it is undecided."""

    kind = "igbp"
    is_affine = False
    eraser_class = IgbpEraser


class Oblivious(Erased):
    """Features as guarded functions of an encoder tell them."""

    kind = "obliviator"
    is_affine = False
    eraser_class = ObliviatorEraser


class WithoutColumns(Representation):
    """Features with some columns set to a constant.

    Args:
        dropped: `[d]` bool.
        constant: `[d]`, read where `dropped`.
    """

    kind = "without_columns"
    dropped: Tensor
    constant: Tensor

    def __init__(self, *, dropped: Tensor, constant: Tensor) -> None:
        super().__init__()
        self.register_buffer("dropped", dropped)
        self.register_buffer("constant", constant)

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        return torch.where(self.dropped, self.constant, x)


class Repaired(Representation):
    """Each feature under each value of the attribute replaced by a table: the entry of the nearest value in it.

    Args:
        values: of features, ascending within each part, all parts one after the other.
        repaired: what takes their places.
        ends: `[A, d]` int64: where the part of an attribute and a feature ends.
    """

    kind = "repaired"
    is_affine = False
    uses_attribute = True
    values: Tensor
    repaired: Tensor
    ends: Tensor

    def __init__(self, *, values: Tensor, repaired: Tensor, ends: Tensor) -> None:
        super().__init__()
        for name, tensor in {"values": values, "repaired": repaired, "ends": ends}.items():
            self.register_buffer(name, tensor)
        self._ends = ends.tolist()

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        """Map x `[n, d]` under a `[n]`. Cost: a search in each table for each row."""
        if a is None:
            raise ValueError("a: these features are repaired by the attribute of each sample")
        columns, start = list(x.unbind(1)), 0
        for value, ends in enumerate(self._ends):
            for column, end in enumerate(ends):
                if end > start:  # the attribute's value occurred where the tables were made
                    place = _nearest(self.values[start:end], x[:, column])
                    target = self.repaired[start:end][place].to(x.dtype)
                    columns[column] = torch.where(a == value, target, columns[column])
                start = end
        return torch.stack(columns, 1)


def _nearest(values: Tensor, x: Tensor) -> Tensor:
    """Return which of ascending `values` is nearest to each of x, the lower one of two."""
    above = torch.searchsorted(values, x.to(values.dtype).contiguous()).clamp(max=len(values) - 1)
    below = (above - 1).clamp(min=0)
    return torch.where((x - values[below]).abs() <= (values[above] - x).abs(), below, above)


class InUnitBall(Representation):
    """Rows over the larger of their length and `max_norm`, as the certificate of removal needs them."""

    kind = "unit_ball"
    is_affine = False
    max_norm: Tensor

    def __init__(self, *, max_norm: Tensor) -> None:
        super().__init__()
        self.register_buffer("max_norm", max_norm)

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        return into_unit_ball(x, self.max_norm)


class Rectified(Representation):
    """Linear layers, each with a ReLU after it: of several re-trained layers those before the head.

    Args:
        tensors: `weight_0`, `bias_0`, `weight_1`, …; a bias may be missing.

    Raises:
        ValueError: a weight is missing, or there is something else.
    """

    kind = "rectified"
    is_affine = False

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self._depth = sum(name.startswith("weight_") for name in tensors)
        weights = {f"weight_{i}" for i in range(self._depth)}
        if not weights or not weights <= set(tensors) <= weights | {f"bias_{i}" for i in range(self._depth)}:
            raise ValueError(f"tensors are {sorted(tensors)}, but must be weight_0, bias_0, weight_1, …")

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        named = dict(self.named_buffers())
        for i in range(self._depth):
            x = nn.functional.linear(x, named[f"weight_{i}"], named.get(f"bias_{i}")).relu()
        return x

    def layers(self) -> list[nn.Linear]:
        """Return the linear layers; each has a ReLU after it."""
        named = dict(self.named_buffers())
        return [linear_layer(named[f"weight_{i}"], named.get(f"bias_{i}")) for i in range(self._depth)]


_ALL = (
    Representation,
    LinearlyErased,
    OracleErased,
    QuadraticallyErased,
    QuadraticallyErasedFree,
    SteppedByNetworks,
    Oblivious,
    WithoutColumns,
    Repaired,
    InUnitBall,
    Rectified,
)
KINDS: dict[str, type[Representation]] = {cls.kind: cls for cls in _ALL}
"""All that a saved model can name."""
