"""Metrics computed again from the predictions of a run: the label, attribute and score of each test sample."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from efface.evaluation import confusion, scores
from efface.evaluation.evaluate import Evaluated, Evaluation, Reference
from efface.evaluation.leakage import Leakage
from efface.evaluation.measured import number
from efface.evaluation.probes import Standardiser
from efface.problem import Features
from efface.record import Record
from efface.verify.check import Check, compared

_OF_TRAIN = {"group_adjusted_accuracy", "bias_aligned_accuracy", "bias_conflicting_accuracy", "tpr_gap_correlation"}
"""Metrics that depend on the groups of train too."""
_ROUNDING = 1e-6


def check_figures(record: Record, predictions: Path) -> Iterator[Check]:
    """Compare a record's metrics and intervals on test with those of its predictions.

    Intervals over identities cannot be computed without the data: where none agrees, none is checked.

    Args:
        record: of the run.
        predictions: the file of its predictions, whose digest has been compared.
    """
    evaluated, features, reference = _evaluated(record, predictions)
    recorded = {name: record.metrics.get(name) for name in evaluated.metrics}
    differences = list(differing(recorded, evaluated.metrics, _ROUNDING))
    yield compared("metrics, computed again from the predictions", differences)
    others = [name for name, value in record.metrics.items() if name not in evaluated.metrics and value is not None]
    if others:
        yield Check("metrics that predictions do not tell", None, f"--data measures {', '.join(others)}")
    bootstrap = record.config["evaluation"].get("bootstrap", 0)
    if not bootstrap:
        return
    computed = Evaluation(bootstrap=bootstrap).intervals(evaluated, features, reference)
    known = {name: bounds for name, bounds in computed.items() if name in evaluated.metrics}
    recorded = {name: record.metrics_ci.get(name) for name in known}
    differences = list(differing(recorded, known, _ROUNDING))
    what = "intervals, computed again from the predictions"
    if len(differences) == len(known):
        yield Check(what, None, "none agrees, as where whole identities are drawn: --data compares them")
    else:
        yield compared(what, differences)


def _evaluated(record: Record, path: Path) -> tuple[Evaluated, Features, Reference]:
    """Return what predictions tell of a model, as `Evaluation` does."""
    import pandas as pd

    table = pd.read_parquet(path)
    columns = {name: torch.from_numpy(table[name].to_numpy(copy=True)) for name in table}
    y, a, y_pred, p_y, p_y_cf = (columns[name] for name in ("y", "a", "y_pred", "p_y", "p_y_cf"))
    n_classes, n_attributes = _shape(record)
    share = torch.full((n_classes, n_attributes), 1 / n_classes / n_attributes, dtype=torch.float64)
    reference = Reference(
        Standardiser(torch.zeros(1), torch.ones(1)), share, torch.zeros(n_classes, n_attributes, dtype=torch.bool)
    )
    bias = (p_y - p_y_cf).abs().mean() if not bool(p_y_cf.isnan().all()) else None
    measured = confusion.measure(y_pred, y, a, share, reference.aligned) | scores.measure(
        p_y, y, a, n_classes, n_attributes
    )
    metrics = {name: value for name, value in measured.metrics.items() if name not in _OF_TRAIN}
    metrics["counterfactual_bias"] = number(bias)
    predictions = {"y_pred": y_pred, "p_y": p_y, "p_y_cf": p_y_cf}
    evaluated = Evaluated(_AnyMetric(metrics), predictions, [], leakage=Leakage())
    return evaluated, Features(torch.zeros(len(y), 1), y, a), reference


class _AnyMetric(dict[str, Any]):
    """Metrics, of which the intervals of others may be asked for."""

    def __missing__(self, key: str) -> None:
        return None


def _shape(record: Record) -> tuple[int, int]:
    """Return the number of labels and of values of the attribute, from the names of groups `y=…,a=…`."""
    names = [key.split(",") for key in record.metrics["group_accuracy"]]
    return len({y for y, _ in names}), len({a for _, a in names})


def differing(recorded: Mapping[str, Any], measured: Mapping[str, Any], tolerance: float) -> Iterator[str]:
    """Say which values differ, by more than a tolerance where they are numbers.

    Args:
        recorded, measured: numbers, None, lists of them, or mappings to such, by name.
        tolerance: in the units of each.
    """
    for name in sorted({*recorded, *measured}):
        first, second = recorded.get(name), measured.get(name)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            for line in differing(first, second, tolerance):
                yield f"{name}, {line}"
        elif not _alike(first, second, tolerance):
            yield f"{name} is {_shown(first)}, but must be {_shown(second)}"


def _alike(first: Any, second: Any, tolerance: float) -> bool:
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(_alike(x, y, tolerance) for x, y in zip(first, second, strict=True))
    if isinstance(first, int | float) and isinstance(second, int | float):
        return abs(first - second) <= tolerance
    return bool(first == second)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
