"""Metrics and intervals of predictions: of several folds' together, and of one method's beside the base model's.

The formulas are those of evaluation, `efface.metrics.counts`. Every metric with an interval is made of sums over
samples, so that a resample of people is a weighted sum of what each person adds. Efron & Tibshirani, "An Introduction
to the Bootstrap", 1993, chapters 8 and 13.
"""

import math
import warnings
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from efface.extras import require
from efface.metrics import counts

FILE = "predictions.parquet"
RESAMPLES = 1000
METRICS = (
    "accuracy",
    "unbiased_accuracy",
    "worst_group_accuracy",
    "tpr_gap_rms",
    *counts.BINARY,
    "conditional_score_gap_mean_abs",
    "counterfactual_bias",
    "score_energy_distance_mean",
)
"""What predictions tell without the samples of train and without features."""
_NEEDED = ("index", "y", "a", "y_pred", "p_y", "p_y_cf")
_SCORES = ("p_y", "p_y_cf")
_LARGEST = {"index": 2**40, "cluster": 2**40, "y": 999, "a": 999, "y_pred": 999}
"""No index, person, label or attribute is larger: tables of counts have a cell for each label, attribute and
prediction."""
_CHUNK = 100


class Estimate(NamedTuple):
    """A metric, and the ends of its 95 % interval."""

    value: float
    """NaN where it is not defined."""
    low: float = math.nan
    high: float = math.nan


def read(path: Path) -> pd.DataFrame:
    """Read what a run predicted: `index`, `y`, `a`, `y_pred`, `p_y`, `p_y_cf`, and `cluster` where there is one.

    Raises:
        OSError: the file is not there, or is none of parquet.
        ValueError: it has no sample, lacks a column or holds in one what no run predicts; the message names it.
        ModuleNotFoundError: pyarrow is not installed.
    """
    require("pyarrow", extra="report", what="pooling folds")
    predictions = pd.read_parquet(path)
    missing = [name for name in _NEEDED if name not in predictions]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}: run its job again with overwrite=true")
    if len(predictions) == 0:
        raise ValueError(f"{path} holds no sample: run its job again with overwrite=true")
    for name in (*_NEEDED, *(["cluster"] if "cluster" in predictions else [])):
        if not _is_good(predictions[name]):
            raise ValueError(f"{path}: {name} holds what no run predicts: run its job again with overwrite=true")
    return predictions


def _is_good(column: pd.Series) -> bool:
    """Return whether a column holds probabilities, or integers that are not too large, as its name asks."""
    if column.name in _SCORES:
        return pd.api.types.is_numeric_dtype(column) and bool((column.between(0, 1) | column.isna()).all())
    return pd.api.types.is_integer_dtype(column) and bool(column.between(0, _LARGEST[str(column.name)]).all())


def measure(predictions: pd.DataFrame) -> dict[str, Estimate]:
    """Return the `METRICS` of predictions, with intervals by the bootstrap of whole clusters, else of samples.

    The energy distance, which is no function of sums, has none.

    Cost: O(clusters · RESAMPLES · groups), and O(n log n) for the energy distance.
    """
    shape, unit = _shape(predictions), _units(predictions)
    sums = _Sums.of(predictions, unit, shape)
    estimates = _estimates(sums.metrics(), [sums.metrics(times) for times in _resamples(sums.n_units)])
    return estimates | {"score_energy_distance_mean": Estimate(_energy_distance(predictions))}


def difference(predictions: pd.DataFrame, base: pd.DataFrame) -> dict[str, Estimate]:
    """Return metrics of predictions minus those of the base model, on the samples of both, under the same resamples.

    Nothing where they have none in common.

    Raises:
        ValueError: they say of one sample that it has different labels.
    """
    pairs = predictions.merge(base, on="index", suffixes=("", "_base"), validate="one_to_one")
    if len(pairs) == 0:
        return {}
    if not (pairs["y"].equals(pairs["y_base"]) and pairs["a"].equals(pairs["a_base"])):
        raise ValueError("the method and the base model were run on other labels of the same samples")
    bases = pairs[[f"{name}_base" for name in _NEEDED[1:]]].set_axis(_NEEDED[1:], axis=1)
    shape, unit = _shape(pd.concat([pairs, bases])), _units(pairs)
    one, other = (_Sums.of(frame, unit, shape) for frame in (pairs, bases))

    def minus(times: np.ndarray | None = None) -> dict[str, np.ndarray]:
        theirs = other.metrics(times)
        return {name: values - theirs[name] for name, values in one.metrics(times).items()}

    return _estimates(minus(), [minus(times) for times in _resamples(one.n_units)])


class _Sums(NamedTuple):
    """What each unit that is drawn, a person or a sample, adds to the sums of which metrics are made."""

    matrix: Any
    """`[sums, n_units]`, sparse: counts of (y, a, y_pred), then sums of p_y by group, then of |p_y − p_y_cf|."""
    shape: tuple[int, int]
    """Values of the label and of the attribute."""
    n_units: int

    @classmethod
    def of(cls, predictions: pd.DataFrame, unit: np.ndarray, shape: tuple[int, int]) -> "_Sums":
        """Sum the predictions by `unit` `[n]`."""
        from scipy.sparse import coo_matrix

        k, m = shape
        group = predictions["y"].to_numpy() * m + predictions["a"].to_numpy()
        cell = group * k + predictions["y_pred"].to_numpy()
        p_y, p_y_cf = (predictions[name].to_numpy(dtype=float) for name in ("p_y", "p_y_cf"))
        n, n_cells, n_units = len(predictions), k * m * k, int(unit.max()) + 1
        rows = np.concatenate([cell, n_cells + group, np.full(n, n_cells + k * m)])
        values = np.concatenate([np.ones(n), p_y, np.abs(p_y - p_y_cf)])
        matrix = coo_matrix((values, (rows, np.tile(unit, 3))), shape=(n_cells + k * m + 1, n_units)).tocsr()
        return cls(matrix, shape, n_units)

    def metrics(self, times: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return each metric, `[columns]`, where each unit counts `times` `[n_units, columns]`; once if None."""
        k, m = self.shape
        sums: np.ndarray = self.matrix @ (np.ones((self.n_units, 1)) if times is None else times)
        table = sums[: k * m * k].T.reshape(-1, k, m, k)
        score, shift = sums[k * m * k : -1].reshape(k, m, -1), sums[-1]
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a group may be empty, in one resample or in all
            values = counts.metrics(table)
            gap = counts.mean_score_gap(score, np.moveaxis(table.sum(-1), 0, -1)) if m == 2 else shift * math.nan
            values["conditional_score_gap_mean_abs"] = gap
            values["counterfactual_bias"] = shift / table.sum((1, 2, 3))
        return values


def _shape(predictions: pd.DataFrame) -> tuple[int, int]:
    """Return the numbers of values of the label and of the attribute."""
    return int(predictions[["y", "y_pred"]].to_numpy().max()) + 1, int(predictions["a"].max()) + 1


def _units(predictions: pd.DataFrame) -> np.ndarray:
    """Return which unit, numbered from 0, each sample is drawn with: its cluster, where there are clusters."""
    if "cluster" not in predictions:
        return np.arange(len(predictions))
    return np.unique(predictions["cluster"].to_numpy(), return_inverse=True)[1]


def _resamples(n_units: int) -> Iterator[np.ndarray]:
    """Yield how often each unit is drawn, `[n_units, ≤ 100]` at a time; the same draws for the same number of units.

    Nothing of a single unit: all of its resamples are alike, which says nothing of how far it is from others.
    """
    if n_units < 2:
        return
    draw = np.random.default_rng(0)
    for start in range(0, RESAMPLES, _CHUNK):
        columns = min(_CHUNK, RESAMPLES - start)
        drawn = (np.bincount(draw.integers(n_units, size=n_units), minlength=n_units) for _ in range(columns))
        yield np.stack(list(drawn), axis=1).astype(float)


def _estimates(values: dict[str, np.ndarray], parts: list[dict[str, np.ndarray]]) -> dict[str, Estimate]:
    """Return each value with the central 95 % of its resamples; no interval where one in twenty is not defined.

    Nor is there one without resamples.
    """
    estimates = {}
    for name, value in values.items():
        resampled = np.concatenate([part[name] for part in parts] or [np.array([])])
        known = resampled[np.isfinite(resampled)]
        enough = math.isfinite(value[0]) and len(known) > 0.95 * len(resampled)
        low, high = np.quantile(known, [0.025, 0.975]) if enough else (math.nan, math.nan)
        estimates[name] = Estimate(float(value[0]), float(low), float(high))
    return estimates


def _energy_distance(predictions: pd.DataFrame) -> float:
    """Return the mean over labels, and within each over pairs of attribute values, of the distance of their p_y."""
    from scipy.stats import energy_distance

    distances = []
    for _, label in predictions.groupby("y"):
        scores = [group["p_y"].to_numpy() for _, group in label.groupby("a")]
        apart = [float(energy_distance(one, other)) for one, other in combinations(scores, 2)]
        distances += [sum(apart) / len(apart)] if apart else []
    return float(np.mean(distances)) if distances else math.nan
