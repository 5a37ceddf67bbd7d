"""What methods share that are classes of fairlearn and AIF360: what these need, and what they are handed."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from efface.debiased import Debiased
from efface.decisions import Drawn, keys
from efface.extras import require
from efface.methods.base import NotApplicable
from efface.problem import Features, Problem
from efface.representations import Representation


def require_fairness(name: str) -> None:
    """Check that the packages of the extra are installed; ModuleNotFoundError if not."""
    require("fairlearn", "aif360", "BlackBoxAuditing", "sklearn", extra="fairness", what=f"method={name}")


@contextmanager
def quietly() -> Iterator[None]:
    """Within this context packages may say what else one could install, and what they will rename."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)


def require_two_classes(problem: Problem) -> None:
    """Require a binary label; NotApplicable if it is none."""
    if problem.n_classes != 2:
        raise NotApplicable(
            f"the package knows two classes, and these data have {problem.n_classes}; dataset.positive=... makes two, "
            "where the data set has it"
        )


def require_every_group(data: Features, problem: Problem, where: str) -> None:
    """Require samples of both classes under each value of the attribute; NotApplicable if some have none."""
    for value in range(problem.n_attributes):
        labels = data.y[data.a == value].unique()
        if len(labels) < 2:
            raise NotApplicable(f"the attribute's value {value} has samples of {len(labels)} of 2 classes in {where}")


def scores(problem: Problem, data: Features) -> np.ndarray:
    """Return the probability that the base model gives label 1, `[n]` float64."""
    with torch.no_grad():
        return np.asarray(problem.head(data.x).double().softmax(1)[:, 1].cpu())


def labels_and_attributes(data: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return y and a, `[n]` int64."""
    return data.y.cpu().numpy(), data.a.cpu().numpy()


def log_odds(probability: float, most: float) -> float:
    """Return the log odds of a probability, or of any number as of the nearest one; between −most and most."""
    if not 0 < probability < 1:
        return most if probability >= 1 else -most
    return float(np.clip(np.log(probability) - np.log1p(-probability), -most, most))


def drawn(problem: Problem, rules: np.ndarray, *, head: torch.nn.Linear, column: Any = None, **facts: Any) -> Debiased:
    """Return a model that keeps the features, and draws a rule for each sample by the seed of the run.

    Args:
        problem: for its seed, and where its tensors are.
        rules: `[3, A, R]`: probabilities, slopes and offsets, see `Drawn`.
        head: in front of the rules.
        column: `[R]`: which pair of its logits each rule reads; all the first one if None.
        facts: further fields of `Debiased`.
    """
    x = problem.train.x
    own = problem.attribute_columns if problem.features_are_inputs else None
    probability, slope, offset = (part.clone() for part in torch.from_numpy(rules).to(x.device))
    columns = torch.zeros(rules.shape[2], dtype=torch.int64) if column is None else torch.as_tensor(column)
    decide = Drawn(
        probability=probability,
        slope=slope,
        offset=offset,
        column=columns.to(x.device),
        key=keys(x.shape[1], problem.seed, without=own or ()).to(x.device),
    )
    info = {**facts.pop("info", {}), "randomised": True}
    return Debiased(represent=Representation(), head=head, decide=decide, info=info, **facts)
