"""AIF360's `DisparateImpactRemover`: each feature is moved to one distribution under all values of the attribute."""

from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from efface.debiased import Debiased
from efface.methods.base import Method
from efface.methods.heads import refit_head
from efface.methods.wrapping import quietly, require_fairness
from efface.options import Ge, Gt, Le, options
from efface.problem import Features, Problem
from efface.representations import Repaired


@options
class DisparateImpactRemover(Method):
    """Repair each feature of train by itself, and fit a converged head on the repaired features.

    Feldman et al., "Certifying and removing disparate impact", KDD 2015, as AIF360 implements it, with the repairer of
    BlackBoxAuditing. AIF360 repairs a data set as a whole, and has no map for new samples. Here the map is read off
    train: a value that train does not have under an attribute is taken for the nearest one that it has. The attribute
    has to be known of whoever is decided on. Its own columns are set to a constant; AIF360's examples leave them out.

    Args:
        repair_level: how far each value moves towards the common distribution, from 0 to 1.
        l2: penalty λ/2 ‖W‖² of the head, on features in units of their standard deviation.
    """

    repair_level: Annotated[float, Ge(0), Le(1)] = 1.0
    l2: Annotated[float, Gt(0)] = 1e-4

    uses_attribute_at_test: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_fairness("disparate_impact_remover")

    def fit(self, problem: Problem) -> Debiased:
        train = self.training_data(problem)
        repaired = self._repaired(train)
        if problem.attribute_columns is not None and problem.features_are_inputs:
            own = list(problem.attribute_columns)
            repaired[:, own] = train.x[:, own].mean(0)
        represent = _tables(train, repaired, problem.n_attributes)
        head, converged = refit_head(represent(train.x, train.a), train, n_classes=problem.n_classes, l2=self.l2)
        return Debiased(represent=represent, head=head, fitted_on=train, info={"refit_converged": converged})

    def _repaired(self, train: Features) -> Tensor:
        """Return the features `[n, d]` that AIF360 makes of those of train. Cost: seconds for a million numbers."""
        with quietly():
            import pandas as pd
            from aif360.algorithms.preprocessing import DisparateImpactRemover as Wrapped
            from aif360.datasets import StructuredDataset

            columns = np.column_stack([train.a.cpu().numpy(), np.zeros(len(train)), train.x.cpu().double().numpy()])
            names = ["a", "y", *(f"x{i}" for i in range(train.x.shape[1]))]
            frame = pd.DataFrame(columns, columns=names)
            data = StructuredDataset(df=frame, label_names=["y"], protected_attribute_names=["a"])
            remover = Wrapped(repair_level=self.repair_level, sensitive_attribute="a")
            features = remover.fit_transform(data).features
        return torch.from_numpy(features[:, 1:]).to(train.x)


def _tables(train: Features, repaired: Tensor, n_attributes: int) -> Repaired:
    """Read off what each value of each feature of train became under each value of the attribute."""
    values: list[Tensor] = []
    targets: list[Tensor] = []
    ends: list[int] = []
    for value in range(n_attributes):
        rows = train.a == value
        for before, after in zip(train.x[rows].T, repaired[rows].T, strict=True):
            different, places = before.unique(return_inverse=True)
            values.append(different)
            targets.append(torch.zeros_like(different).scatter_(0, places, after))
            ends.append(len(different) + (ends[-1] if ends else 0))
    return Repaired(
        values=torch.cat(values),
        repaired=torch.cat(targets),
        ends=torch.tensor(ends, device=train.x.device).view(n_attributes, -1),
    )
