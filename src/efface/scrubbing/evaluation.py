"""What is measured of a scrubbed language model: what it costs, and what is left of the concept at each site."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from tqdm import tqdm

from efface.erasure.leace import LeaceEraser
from efface.evaluation.probes import Standardiser, linear_probe
from efface.options import Ge, options
from efface.scrubbing.families import family_of
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.measure import bits_per_byte, largest_covariances, states_by_site
from efface.scrubbing.scrubber import ConceptScrubber
from efface.scrubbing.tokens import TokenData
from efface.softmax import fit_softmax

_PROBE = ("probe_information", "probe_accuracy", "probe_majority")


@dataclass(frozen=True)
class ScrubbingMeasures:
    """Metrics on one split, and the same site by site."""

    metrics: dict[str, Any]
    """Those of the probe are of the site where it reads most, which `probe_layer` names."""
    reasons: dict[str, str]
    """Why a metric is null, where it is."""
    layers: list[dict[str, Any]]
    """For each site its `path`, and what the probe reads there."""


@options
class ScrubbingEvaluation:
    """Evaluates a scrubbed model.

    Args:
        probe: train a linear probe for the tags behind every erased layer (every normalisation, if none is erased).
        probe_tokens: labelled tokens that it is trained and scored on, drawn at random; all if there are fewer.
        fit_information: measure what is left on the data fitted on, all of them: the largest covariance, and what a
            linear probe gains, which is nil if the concept is guarded. The latter for erasers that promise it, and
            states of at most `fit_bytes`.
        fit_bytes: bytes of the states that are in memory at once, of several sites or of one that has more. At such a
            site `fit_information` is not measured.
        batch_size: sequences that the model reads at a time, when it is evaluated and when erasers are fitted. Lower
            it for a large model. Sums are then taken in another order, so metrics differ in their last digits, and a
            run has another id.
    """

    probe: bool = True
    probe_tokens: Annotated[int, Ge(10)] = 20_000
    fit_information: bool = True
    fit_bytes: Annotated[int, Ge(0)] = 1 << 30
    batch_size: Annotated[int, Ge(1)] = 32

    def scales(
        self,
        lm: LanguageModel,
        scrubber: ConceptScrubber,
        train: TokenData,
        paths: Sequence[str],
        *,
        progress: bool = False,
    ) -> dict[str, Standardiser]:
        """Return the scale of the states at each site in the model as it is, from tokens of train; none if unused."""
        if not (self.probe or self.fit_information):
            return {}
        untouched = ConceptScrubber(scrubber.pre_hook)
        states = states_by_site(
            lm,
            untouched,
            train,
            paths,
            batch_size=self.batch_size,
            tokens=self._sample(train),
            max_bytes=self.fit_bytes,
            progress=progress,
        )
        return {path: Standardiser.of(x.double()) for path, x in states}

    def __call__(
        self,
        lm: LanguageModel,
        scrubber: ConceptScrubber,
        data: TokenData,
        scales: Mapping[str, Standardiser],
        n_labels: int,
        *,
        progress: bool = False,
    ) -> ScrubbingMeasures:
        """Evaluate on one split.

        Args:
            lm: the model.
            scrubber: its erasers act.
            data: the split.
            scales: from train, of the sites to probe.
            n_labels: number of tags.
            progress: show bars.
        """
        bits = bits_per_byte(lm, scrubber, data, batch_size=self.batch_size, progress=progress)
        metrics: dict[str, Any] = {"bits_per_byte": bits}
        metrics |= dict.fromkeys((*_PROBE, "probe_layer"))
        reasons = dict.fromkeys((*_PROBE, "probe_layer"), "probes are switched off (evaluation.probe)")
        layers: list[dict[str, Any]] = [{"path": path} for path in scales]
        if self.probe:
            layers, reasons = self._probes(lm, scrubber, data, scales, n_labels, progress), {}
            most = max(layers, key=lambda layer: float(layer["probe_information"]))
            metrics |= {name: most[name] for name in _PROBE} | {"probe_layer": most["path"]}
        if metrics["bits_per_byte"] is None:
            reasons["bits_per_byte"] = "the model has no head that predicts the next token"
        return ScrubbingMeasures(metrics, reasons, layers)

    def on_fit(
        self,
        lm: LanguageModel,
        scrubber: ConceptScrubber,
        train: TokenData,
        scales: Mapping[str, Standardiser],
        n_labels: int,
        *,
        progress: bool = False,
    ) -> dict[str, dict[str, float | None]]:
        """Measure what is left of the concept on the data fitted on.

        Returns:
            `max_abs_cov` and `fit_information` by site; nothing if nothing is erased, or if it is switched off.
        """
        if not scrubber.erasers or not self.fit_information:
            return {}
        labelled = (train.z >= 0) & (train.attention_mask > 0)
        covariances = largest_covariances(
            lm, scrubber, train, list(scrubber.erasers), n_labels, batch_size=self.batch_size, progress=progress
        )
        z = train.z[labelled]
        small = [
            path
            for path, eraser in scrubber.erasers.items()
            if isinstance(eraser, LeaceEraser) and 4 * len(z) * len(eraser.proj_left) <= self.fit_bytes
        ]
        states = states_by_site(
            lm,
            scrubber,
            train,
            small,
            batch_size=self.batch_size,
            tokens=labelled,
            max_bytes=self.fit_bytes,
            progress=progress,
        )
        information = {path: information_gain(scales[path](x.double()), z, n_labels) for path, x in states}
        return {
            path: {"max_abs_cov": covariance, "fit_information": information.get(path)}
            for path, covariance in covariances.items()
        }

    def sites(self, lm: LanguageModel, scrubber: ConceptScrubber) -> list[str]:
        """Return the paths of the modules to probe: those that are erased, else every normalisation."""
        return list(scrubber.erasers) or family_of(lm.model).paths(lm.model)

    def _probes(
        self,
        lm: LanguageModel,
        scrubber: ConceptScrubber,
        data: TokenData,
        scales: Mapping[str, Standardiser],
        n_labels: int,
        progress: bool,
    ) -> list[dict[str, Any]]:
        tokens = self._sample(data)
        z = data.z[tokens]
        states = states_by_site(
            lm,
            scrubber,
            data,
            list(scales),
            batch_size=self.batch_size,
            tokens=tokens,
            max_bytes=self.fit_bytes,
            progress=progress,
        )
        layers = []
        off = None if progress else True  # None: off where there is no terminal
        for path, x in tqdm(states, desc="probe", unit="site", total=len(scales), disable=off, leave=False):
            probe = linear_probe(scales[path](x.double()), z, z, n_labels)
            values = (probe.information, probe.accuracy, probe.majority)
            layers.append({"path": path, **dict(zip(_PROBE, values, strict=True))})
        return layers

    def _sample(self, data: TokenData) -> Tensor:
        """Choose some of the labelled tokens, always the same ones, `[n, t]` bool."""
        places = ((data.z >= 0) & (data.attention_mask > 0)).flatten().nonzero()[:, 0]
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
        chosen = torch.zeros(data.z.numel(), dtype=torch.bool)
        chosen[places[order[: self.probe_tokens]]] = True
        return chosen.view_as(data.z)


def information_gain(x: Tensor, z: Tensor, n_labels: int, *, l2: float = 1e-7) -> float:
    """Return H(z) minus the cross-entropy of the best softmax regression on the same data, in bits; 0 if z is guarded.

    Args:
        x: `[n, d]`, standardised by the un-erased states.
        z: labels `[n]`.
        n_labels: number of classes.
        l2: a slight ridge, so that rounding noise in directions that are gone cannot be read.
    """
    log_frequency = (torch.bincount(z, minlength=n_labels).double() / len(z)).clamp_min(1e-12).log()
    entropy = -float((log_frequency.exp() * log_frequency).sum())
    # From the best constant, so that nothing has to be solved where nothing can be gained. The problem is convex: a
    # gradient of 1e-7 there leaves nothing that the ridge does not outweigh.
    constant = x.new_zeros(n_labels, x.shape[1] + 1, dtype=torch.float64)
    constant[:, -1] = log_frequency
    fit = fit_softmax(x, z, n_classes=n_labels, l2=l2, init=constant, tol=1e-7)
    return (entropy - fit.loss) / math.log(2)
