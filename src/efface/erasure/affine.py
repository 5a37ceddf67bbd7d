"""Erasers that remove a few directions: x ↦ P x + (I − P) bias."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from efface.erasure.frozen import FrozenTensors
from efface.erasure.inputs import as_tensor
from efface.erasure.linear import linear_layer
from efface.moments import as_numbers


@dataclass(frozen=True)
class AffineEraser(FrozenTensors):
    """x ↦ x − (x − bias) · proj_rightᴴ · proj_leftᴴ for x of shape `[..., d]`, in O(dk) memory and O(ndk) time."""

    _shapes: ClassVar[dict[str, str]] = {"proj_left": "dk", "proj_right": "kd", "bias": "d"}

    proj_left: Tensor
    """`[d, k]`; with `proj_right` unique only up to a change of basis of the k columns: compare erasers by `P`."""
    proj_right: Tensor
    """`[k, d]`"""
    bias: Tensor | None = None
    """`[d]`: the mean, which stays where it is; None for a linear eraser (`affine=False`)."""

    @classmethod
    def orthogonal(cls, directions: Tensor, bias: Tensor | None) -> Self:
        """Make the eraser that projects off the span of `directions` `[d, k]`, which are orthonormal."""
        # Separate memory for each factor, also where k = 1: safetensors refuses to save the same memory twice.
        return cls(directions, directions.mH.clone(memory_format=torch.contiguous_format), bias)

    @property
    def P(self) -> Tensor:
        """The projection matrix `[d, d]`: r(x) = P x + (I − P) bias."""
        eye = torch.eye(len(self.proj_left), dtype=self.proj_left.dtype, device=self.proj_left.device)
        return eye - self.proj_left @ self.proj_right

    @property
    def rank(self) -> int:
        """Number of directions removed."""
        return self.proj_left.shape[1]

    def __call__(self, x: Any) -> Tensor:
        """Erase the concept from x `[..., d]`; the result has the dtype of x (the eraser's if x holds integers)."""
        x = as_tensor(x, "x")
        if x.shape[-1:] != self.proj_left.shape[:1]:
            raise ValueError(f"x has shape {list(x.shape)}, but its last dimension must be {len(self.proj_left)}")
        x = as_numbers(x, self.proj_left.dtype)
        delta = x.to(torch.promote_types(x.dtype, self.proj_left.dtype))
        proj_right, proj_left = self.proj_right.to(delta.dtype), self.proj_left.to(delta.dtype)
        if self.bias is not None:
            delta = delta - self.bias
        edit = (delta @ proj_right.mH) @ proj_left.mH
        erased: Tensor = x - edit.to(x.dtype)
        return erased

    def fold_into(self, *, linear_before: nn.Linear | None = None, linear_after: nn.Linear | None = None) -> nn.Linear:
        """Merge this eraser with the linear layer before it or with the one after it.

        Args:
            linear_before: the layer whose outputs are erased; the result is `self(linear_before(x))`.
            linear_after: the layer that reads what is erased; the result is `linear_after(self(x))`.

        Returns:
            A new layer, merged in float64, in the dtype and on the device of the one given, frozen. It has a bias where
            that had one, or where this eraser keeps the mean.

        Raises:
            ValueError: not exactly one layer is given, it has another width, or the eraser is complex.
        """
        layers = [layer for layer in (linear_before, linear_after) if layer is not None]
        if len(layers) != 1:
            raise ValueError(f"{len(layers)} layers were given: give linear_before or linear_after, one of the two")
        if self.proj_left.is_complex():
            raise ValueError("the eraser is complex, and no layer of real numbers computes it: apply its module()")
        (layer,) = layers
        name, width = "linear_after", layer.in_features
        if linear_before is not None:
            name, width = "linear_before", layer.out_features
        if width != len(self.proj_left):
            raise ValueError(f"{name} has {width} features on the side of the eraser, which has {len(self.proj_left)}")
        merged = self.behind if linear_before is not None else self.ahead_of
        weight, bias = merged(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())
        return linear_layer(weight, bias)

    def ahead_of(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the layer that computes W r(x) + c: W P, and c + W (I − P) `self.bias`.

        Args:
            weight: W `[out, d]`
            bias: c `[out]`
        """
        wide, proj_left, proj_right = self._wide(weight)
        removed = (wide @ proj_left) @ proj_right
        constant = None if self.bias is None else removed @ self.bias.to(wide)
        if constant is not None and bias is not None:
            constant = constant + bias.to(wide)
        return (wide - removed).to(weight.dtype), bias if constant is None else constant.to(weight.dtype)

    def behind(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the layer that computes r(W x + c): P W, and P c + (I − P) `self.bias`.

        Args:
            weight: W `[d, in]`
            bias: c `[d]`
        """
        wide, proj_left, proj_right = self._wide(weight)
        erased = wide - proj_left @ (proj_right @ wide)
        if self.bias is None and bias is None:
            return erased.to(weight.dtype), None
        constant = wide.new_zeros(len(wide)) if bias is None else bias.to(wide)
        centred = constant if self.bias is None else constant - self.bias.to(wide)
        return erased.to(weight.dtype), (constant - proj_left @ (proj_right @ centred)).to(weight.dtype)

    def _wide(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a weight and the two factors in float64, where the weight is."""
        wide = weight.double()
        return wide, self.proj_left.to(wide), self.proj_right.to(wide)

    def then(self, other: "AffineEraser") -> "AffineEraser":
        """Compose two erasers: return one that applies this one and then the other, of at most the sum of their ranks.

        A concept that this one has removed stays removed: an affine map of x keeps Cov(x, z) = 0.

        Raises:
            ValueError: the two act on different widths.
        """
        if len(self.proj_left) != len(other.proj_left):
            raise ValueError(f"other acts on {len(other.proj_left)} features, but this eraser on {len(self.proj_left)}")
        zero = torch.zeros_like(self.proj_left[:, 0])
        bias, other_bias = (zero if b is None else b for b in (self.bias, other.bias))
        proj_left = torch.cat([self.proj_left, other.proj_left], 1)
        second = other.proj_right - (other.proj_right @ self.proj_left) @ self.proj_right
        proj_right = torch.cat([self.proj_right, second])
        if self.bias is None and other.bias is None:
            return AffineEraser(proj_left, proj_right)
        # The constant part of the edit, proj_left · offset, written as proj_left · proj_right · bias.
        inner = other_bias - self.proj_left @ (self.proj_right @ bias)
        offset = torch.cat([self.proj_right @ bias, other.proj_right @ inner])
        return AffineEraser(proj_left, proj_right, torch.linalg.pinv(proj_right) @ offset)
