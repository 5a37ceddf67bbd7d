"""What all erasure methods share: where the eraser is fitted, under which weights, and what becomes of the head."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from efface.data.groups import kamiran_calders
from efface.erasure.leace import LeaceEraser
from efface.methods.base import Debiased, Features, Problem, Representation
from efface.softmax import fit_softmax


class LinearErasure(Representation):
    """An affine eraser, after columns that vary too rarely have been set to a constant.

    x ↦ u − (u − bias) proj_rightᴴ proj_leftᴴ with u = constant where `dropped`, else x.

    Args:
        proj_left: `[d, k]`
        proj_right: `[k, d]`
        bias: `[d]`
        dropped: `[d]` bool.
        constant: `[d]`, read where `dropped`.

    """

    proj_left: Tensor
    proj_right: Tensor
    bias: Tensor
    dropped: Tensor
    constant: Tensor

    def __init__(
        self, *, proj_left: Tensor, proj_right: Tensor, bias: Tensor, dropped: Tensor, constant: Tensor
    ) -> None:
        super().__init__()
        self.register_buffer("proj_left", proj_left)
        self.register_buffer("proj_right", proj_right)
        self.register_buffer("bias", bias)
        self.register_buffer("dropped", dropped)
        self.register_buffer("constant", constant)

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        return self.eraser(torch.where(self.dropped, self.constant, x))

    @property
    def eraser(self) -> LeaceEraser:
        """The eraser of the columns that are kept."""
        return LeaceEraser(self.proj_left, self.proj_right, self.bias)


@dataclass(frozen=True, kw_only=True)
class Erasure(ABC):
    """Fits an eraser of the attribute and, if asked, a new head on what is left.

    Args:
        fit_on: whose features the eraser is fitted on: `train`, `pairs` (both members, each with its own attribute) or
            `train+pairs`. On biased data the attribute stands in for the label, and erasing it takes the label along.
        reweigh: fit under Kamiran–Calders weights, which make the attribute independent of the label. What is
            guaranteed then holds under the weighted law.
        min_support: columns that differ from their most frequent value in a smaller share of the rows fitted on are
            set to that value: a unit active in a handful of rows lets an eraser balance class means with outliers.
        refit_head: fit a new head on the erased features of the same rows under the same weights, instead of keeping
            the base model's.
        refit_l2: penalty λ/2 ‖W‖² of the re-fitted head, on features in units of their standard deviation.

    """

    fit_on: Literal["train", "pairs", "train+pairs"]
    reweigh: bool
    min_support: float = 0.01
    refit_head: bool = False
    refit_l2: float = 1e-3

    uses_attribute_at_test: ClassVar[bool] = False
    small: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        if self.fit_on not in ("train", "pairs", "train+pairs"):
            raise ValueError(f"fit_on is {self.fit_on!r}, but must be 'train', 'pairs' or 'train+pairs'")
        if not 0 <= self.min_support < 1:
            raise ValueError(f"min_support is {self.min_support}, but must be a share of the rows, in [0, 1)")
        if self.refit_l2 <= 0:
            raise ValueError(f"refit_l2 is {self.refit_l2}, but must be positive, so that the head has a minimum")

    def skip(self, problem: Problem) -> str | None:
        data = self._data(problem)
        if len(data) == 0:
            return f"fit_on={self.fit_on}: the data set has no counterfactual pairs"
        if len(data.a.unique()) < 2:
            return f"fit_on={self.fit_on}: the attribute has one value only there"
        if self.reweigh:
            try:
                kamiran_calders(data.y, data.a, problem.n_classes, problem.n_attributes)
            except ValueError as error:
                return f"reweigh=true: {error}"
        return None

    def fit(self, problem: Problem) -> Debiased:
        data = self._data(problem)
        weight = None
        if self.reweigh:
            weight = kamiran_calders(data.y, data.a, problem.n_classes, problem.n_attributes)
            data = Features(data.x, data.y, data.a, weight)
        dropped, constant = rare_columns(data.x, self.min_support)
        x = torch.where(dropped, constant, data.x)
        z = functional.one_hot(data.a, problem.n_attributes).to(x.dtype)
        eraser = self.eraser(x, z, weight)
        represent = LinearErasure(
            proj_left=eraser.proj_left,
            proj_right=eraser.proj_right,
            bias=torch.zeros_like(constant) if eraser.bias is None else eraser.bias,
            dropped=dropped,
            constant=constant,
        )
        info: dict[str, Any] = {
            "n_fit": len(data),
            "d": x.shape[1],
            "rank": eraser.rank,
            "dropped_columns": int(dropped.sum()),
        }
        if weight is not None:
            info["n_eff"] = float(weight.sum().square() / weight.square().sum())
        head = problem.head
        if self.refit_head:
            head, info["refit_converged"] = refit_head(
                represent(data.x), data, n_classes=problem.n_classes, l2=self.refit_l2
            )
        return Debiased(represent=represent, head=head, fitted_on=data, info=info)

    @abstractmethod
    def eraser(self, x: Tensor, z: Tensor, weight: Tensor | None) -> LeaceEraser:
        """An eraser of the one-hot concept z `[n, k]` from x `[n, d]` under importance weights `[n]`."""

    def _data(self, problem: Problem) -> Features:
        if self.fit_on == "train":
            return problem.train
        pairs = problem.pairs + problem.pairs_cf
        return pairs if self.fit_on == "pairs" else problem.train + pairs


def rare_columns(x: Tensor, min_support: float) -> tuple[Tensor, Tensor]:
    """Columns of x `[n, d]` that differ from their mode in fewer than `min_support` of the rows.

    Returns:
        A mask `[d]`, and the mode of each column `[d]`.

    """
    mode = x.mode(0).values
    return (x != mode).double().mean(0) < min_support, mode


def refit_head(x: Tensor, data: Features, *, n_classes: int, l2: float) -> tuple[torch.nn.Linear, bool]:
    """A converged softmax head on x `[n, d]` for the labels and weights of `data`, and whether it converged.

    Columns are standardised for the fit, so that λ means the same whatever the units of the features; columns that are
    constant to rounding are left out.
    """
    mean, std = x.double().mean(0), x.double().std(0)
    used = std > 1e-5 * std.max()
    scale = torch.where(used, std, 1)
    standardised = torch.where(used, (x - mean) / scale, 0)
    fit = fit_softmax(standardised, data.y, n_classes=n_classes, weight=data.weight, l2=l2)
    head = fit.head()
    with torch.no_grad():
        weight = torch.where(used, fit.weight / scale, 0)
        head.weight.copy_(weight)
        head.bias.copy_(fit.bias - weight @ mean)  # type: ignore[operator]
    return head, fit.converged
