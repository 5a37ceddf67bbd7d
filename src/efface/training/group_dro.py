"""Group distributionally robust optimisation.

Sagawa, Koh, Hashimoto & Liang, "Distributionally robust neural networks for group shifts: on the importance of
regularization for worst-case generalization", ICLR 2020.
"""

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from efface.data.base import Dataset
from efface.data.groups import group_counts, groups
from efface.options import Ge, options
from efface.training.erm import Erm, Selection
from efface.training.resampled import balanced_order


class WorstGroup:
    """The loss Σ_g q_g ℓ_g, where q grows with the loss of its group: q_g ← q_g exp(η (ℓ_g + C / √n_g)), normalised.

    Algorithm 1 and section 3.3 of the paper. ℓ_g is the mean loss of the group in the batch, and 0 where the batch has
    none of it, as in its authors' code.

    Args:
        group: `[n]` of train.
        y: labels `[n]` of train.
        counts: samples of each group in train, `[n_classes, n_attributes]`.
        step_size: η.
        adjustment: C.
        device: of the logits.
    """

    def __init__(
        self, group: Tensor, y: Tensor, counts: Tensor, *, step_size: float, adjustment: float, device: str
    ) -> None:
        self._group, self._y = group.to(device), y.to(device)
        self._shape = counts.shape
        n = counts.flatten().to(device, torch.float32)
        self._step_size, self._penalty = step_size, adjustment / n.sqrt()
        self.q = torch.full_like(n, 1 / len(n))

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        rows = rows.to(logits.device)
        losses = functional.cross_entropy(logits, self._y[rows], reduction="none")
        group = self._group[rows]
        present = torch.bincount(group, minlength=len(self.q)).clamp_min(1)
        mean = torch.zeros_like(self.q).index_add(0, group, losses) / present
        q = self.q * (self._step_size * (mean.detach() + self._penalty)).exp()
        self.q = q / q.sum()
        return mean @ self.q

    def report(self) -> dict[str, float]:
        """Return q of each group."""
        names = [f"q_y={i},a={j}" for i in range(self._shape[0]) for j in range(self._shape[1])]
        return dict(zip(names, self.q.tolist(), strict=True))


@options
class GroupDro(Erm):
    """Group DRO: minimise the loss of the worst group.

    Args:
        step_size: η, how fast the weights of the groups move; 0.01 in the paper.
        adjustment: C, which asks more of small groups, since they generalise worse; 0 to 5 in the paper.
        balanced: draw all groups equally often, as in the paper's algorithm and its commands for CelebA.

    Raises:
        ValueError: in `fit`, where a group is empty in train.
    """

    select: Selection = "worst_group_accuracy"
    step_size: Annotated[float, Ge(0)] = 0.01
    adjustment: Annotated[float, Ge(0)] = 0.0
    balanced: bool = True

    def order(self, dataset: Dataset, generator: torch.Generator) -> Tensor:
        return balanced_order(dataset, generator) if self.balanced else super().order(dataset, generator)

    def objective(self, dataset: Dataset, device: str) -> WorstGroup:
        """Return the loss of the groups, under weights that follow it."""
        y, a, n_attributes = dataset.train.y, dataset.train.a, len(dataset.attributes)
        counts = group_counts(y, a, len(dataset.classes), n_attributes)
        if (counts == 0).any():
            empty = [f"y={i},a={j}" for i, j in (counts == 0).nonzero().tolist()]
            raise ValueError(f"group DRO needs samples of every group in train, but there are none with {empty}")
        return WorstGroup(
            groups(y, a, n_attributes), y, counts, step_size=self.step_size, adjustment=self.adjustment, device=device
        )
