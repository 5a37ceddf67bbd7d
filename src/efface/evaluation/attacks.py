"""Attack suite: what the strongest of several classifiers reads of the attribute, with an interval."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from efface.data.groups import groups
from efface.debiased import Debiased
from efface.evaluation import bootstrap, probes
from efface.evaluation.attackers import ATTACKERS, Target
from efface.evaluation.evaluate import Evaluated, Evaluation, Reference
from efface.evaluation.measured import Measured
from efface.evaluation.probes import ProbeResult
from efface.extras import require
from efface.options import Len, options
from efface.problem import Features

MIN_SAMPLES = 50
"""Samples of each value of the attribute."""
Name = Literal["linear", "mlp_32", "mlp_128", "mlp_512", "trees", "neighbours", "rbf"]


@options
class Attacks(Evaluation):
    """Evaluates a debiased model against attackers of several kinds, beside what `Evaluation` measures.

    Args:
        attackers: those to train, see `efface.evaluation.attackers`.
    """

    attackers: Annotated[Sequence[Name], Len(1)] = (
        "linear",
        "mlp_32",
        "mlp_128",
        "mlp_512",
        "trees",
        "neighbours",
        "rbf",
    )

    def require(self, dataset: object, data_dir: object) -> None:
        """Check that scikit-learn is there.

        Raises:
            ModuleNotFoundError: it is not.
        """
        require("sklearn", extra="sklearn", what="evaluation=attacks")

    @torch.no_grad()
    def __call__(
        self, debiased: Debiased, features: Features, counterfactual: Features | None, reference: Reference
    ) -> Evaluated:
        evaluated = super().__call__(debiased, features, counterfactual, reference)
        n_attributes = reference.aligned.shape[1]
        target = Target(
            reference.standardise(debiased.represent(features.x, features.a)),
            features.a,
            groups(features.y, features.a, n_attributes),
            n_attributes,
            features.cluster,
        )
        why = underpowered(target)
        results: dict[str, ProbeResult] = {}
        if why is None:
            results = {name: ATTACKERS[name](target) for name in self.attackers}
        values = {_metric(name): results[name].information if results else None for name in self.attackers}
        strongest = max((result.information for result in results.values()), default=None)
        measured = Measured.from_values({**values, "strongest_attack_information": strongest}, lambda name: str(why))
        return replace(
            evaluated,
            metrics=evaluated.metrics | measured.metrics,
            reasons=evaluated.reasons | measured.reasons,
            attacks=results,
        )

    @torch.no_grad()
    def intervals(
        self, evaluated: Evaluated, features: Features, reference: Reference
    ) -> dict[str, list[float] | None]:
        """Return what `Evaluation.intervals` does, and those of attackers; that of the strongest holds for all at once.

        See `simultaneous`.
        """
        intervals = super().intervals(evaluated, features, reference)
        if self.bootstrap and evaluated.attacks:
            own, strongest = simultaneous(evaluated.attacks, features.cluster, self.bootstrap)
            intervals |= {_metric(name): bounds for name, bounds in own.items()}
            intervals["strongest_attack_information"] = strongest
        return intervals


def underpowered(target: Target) -> str | None:
    """Say why no attacker can be trained and scored on these samples; None if they can."""
    why = probes.unreadable(target.a, target.n_attributes, target.cluster)
    if why is not None:
        return why
    values, counts = target.a.unique(return_counts=True)
    fewest = int(counts.min())
    if fewest < MIN_SAMPLES:
        return f"underpowered: a value of the attribute has {fewest} samples, fewer than {MIN_SAMPLES}"
    if any(len(target.a[part].unique()) < len(values) for part in target.parts()):
        return "underpowered: a value of the attribute is of too few clusters to be learned, chosen by and scored"
    return None


def simultaneous(
    attacks: Mapping[str, ProbeResult], cluster: Tensor | None, repeats: int
) -> tuple[dict[str, list[float] | None], list[float] | None]:
    """Return 95 % intervals of each attacker's information, and of the largest of what all would have without chance.

    Those of each are percentiles, as of all metrics. The largest of several estimates is too large, since part of what
    makes it the largest is chance; its interval is made for that. It comes from intervals m ± c s of all attackers that
    hold together in 95 % of the resamples: c is a quantile of the largest |m* − m| / s over attackers, s the standard
    deviation of m*. If all hold, the largest lies between the largest lower and the largest upper end. After White, "A
    reality check for data snooping", 2000, and Romano & Wolf, "Stepwise multiple testing as formalized data snooping",
    2005.

    Args:
        attacks: what each gained of the same scored samples.
        cluster: of all samples of the split; whole clusters are drawn.
        repeats: resamples.
    """
    rows, gains = _gains(attacks)
    unit = None if cluster is None else cluster[rows.to(cluster.device)].cpu()

    def means(times: Tensor) -> dict[str, Tensor]:
        values = (gains.float().mT @ times) / times.sum(0)
        return dict(zip(attacks, values, strict=True))

    own = bootstrap.intervals(len(rows), repeats, means, cluster=unit)
    drawn = [torch.stack([*means(times).values()]) for times in bootstrap.resamples(len(rows), repeats, cluster=unit)]
    replicates, estimate = torch.cat(drawn, 1).double(), gains.mean(0)
    spread = replicates.std(1)
    if None in own.values() or not bool(replicates.isfinite().all()):
        return own, None
    distance = (replicates - estimate[:, None]).abs() / spread[:, None].clamp_min(1e-12)
    half = distance.amax(0).quantile(bootstrap.LEVEL) * spread
    return own, [float((estimate - half).max()), float((estimate + half).max())]


def _gains(attacks: Mapping[str, ProbeResult]) -> tuple[Tensor, Tensor]:
    """Return the rows that all were scored on `[m]`, and each attacker's bits of each of them `[m, attackers]`."""
    results = [*attacks.values()]
    return results[0].rows.cpu(), torch.stack([result.gain.double().cpu() for result in results], 1)


def _metric(name: str) -> str:
    return f"attack_{name}_information"
