"""What fresh probes read of the attribute from debiased features: metrics, and why some are null."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from efface.data.groups import groups
from efface.evaluation import probes
from efface.evaluation.measured import Measured
from efface.evaluation.probes import ProbeResult, Standardiser
from efface.problem import Features

_METRICS = {
    "probe": ("information", "accuracy", "majority", "macro_recall", "auc"),
    "balanced_probe": ("information", "accuracy", "auc"),  # there the majority is 1 / values of the attribute
    "mlp_probe": ("information",),
}
"""What is reported of each probe."""
_OFF = {
    "probe": "probes are switched off (evaluation.probe)",
    "balanced_probe": "probes are switched off (evaluation.probe)",
    "mlp_probe": "the non-linear probe is switched off (evaluation.mlp_probe)",
}


@dataclass(frozen=True)
class Leakage:
    """What probes read."""

    probes: dict[str, ProbeResult] = field(default_factory=dict)
    """By name: `probe`, `balanced_probe`, `mlp_probe`, where there are."""
    missing: dict[str, str] = field(default_factory=dict)
    """Why there is no probe of a name."""

    @classmethod
    def measure(
        cls,
        features: Features,
        represented: Tensor,
        standardise: Standardiser,
        n_attributes: int,
        *,
        linear: bool,
        mlp: bool,
    ) -> "Leakage":
        """Train and score probes on one split.

        Args:
            features: un-erased.
            represented: debiased, `[n, d]`.
            standardise: by the un-erased features of train.
            n_attributes: number of values of the attribute.
            linear: train linear probes, under the natural distribution and the balanced one.
            mlp: train a non-linear probe.
        """
        if not (linear or mlp):
            return cls(missing=_OFF)
        x, a, cluster = standardise(represented), features.a, features.cluster
        strata = groups(features.y, a, n_attributes)
        why = probes.unreadable(a, n_attributes, cluster)
        results: dict[str, ProbeResult] = {}
        if why is None and linear:
            results["probe"] = probes.linear_probe(x, a, strata, n_attributes, cluster=cluster)
        if why is None and not ("probe" in results and probes.has_power(results["probe"])):
            # What is read so clearly after erasure was readable before it; else it has to be seen.
            # Scaled by themselves: a method may read features of another layer than the reference.
            before = Standardiser.of(features.x)(features.x)
            why = probes.powerless(before, a, strata, n_attributes, cluster)
        if why is not None:
            return cls(missing=dict.fromkeys(_METRICS, why))
        missing = dict(_OFF)
        if linear:
            weight, unbalanced = probes.balanced_weights(strata, a)
            missing["balanced_probe"] = str(unbalanced)
            if weight is not None:
                results["balanced_probe"] = probes.linear_probe(
                    x, a, strata, n_attributes, weight=weight, cluster=cluster
                )
        if mlp:
            results["mlp_probe"] = probes.mlp_probe(x, a, strata, n_attributes, cluster=cluster)
        return cls(results, {name: why for name, why in missing.items() if name not in results})

    @property
    def measured(self) -> Measured:
        """The metrics of all probes."""
        values = {
            f"{probe}_{metric}": getattr(self.probes[probe], metric) if probe in self.probes else None
            for probe, metric in _names()
        }
        missing = {f"{probe}_{metric}": self.missing[probe] for probe, metric in _names() if probe in self.missing}
        # A probe that is there leaves its area under the curve undefined alone.
        return Measured.from_values(values, lambda name: missing.get(name, "defined for a binary attribute"))

    def replicates(self, times: Tensor) -> dict[str, Tensor]:
        """Return information and accuracy of the linear probes under resamples `times` `[n, columns]`: `[columns]`.

        The probes are held fixed: the half that they are scored on is resampled.
        """
        values = {}
        for name in ("probe", "balanced_probe"):
            if name in self.probes:
                probe = self.probes[name]
                weight = times[probe.rows.cpu()] * probe.weight.float().cpu()[:, None]
                for metric, each in (("information", probe.gain), ("accuracy", probe.correct)):
                    values[f"{name}_{metric}"] = each.float().cpu() @ weight / weight.sum(0)
        return values


def _names() -> Iterable[tuple[str, str]]:
    return ((probe, metric) for probe, metrics in _METRICS.items() for metric in metrics)
