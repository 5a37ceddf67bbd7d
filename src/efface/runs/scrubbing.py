"""One run of concept scrubbing, from configured parts to a record: text, language model, scrubber, evaluation.

The record is that of every run. `metrics` has, on test, `bits_per_byte`, and `probe_information`, `probe_accuracy` and
`probe_majority` of the layer where the probe reads most; `info["layers"]` has them layer by layer.
"""

import hashlib
import importlib.metadata
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface import cache
from efface.data.conllu import TaggedText, TextSource
from efface.erasure.leace import LeaceEraser
from efface.evaluation.probes import Standardiser, linear_probe
from efface.identity import identity, run_id, run_subdir
from efface.record import Record
from efface.runs.base import Run, Steps
from efface.runs.provenance import PeakMemory
from efface.scrubbing.families import family_of
from efface.scrubbing.language_models import LanguageModel, LmTraining, ModelSource, NoTraining, Trained
from efface.scrubbing.measure import bits_per_byte, largest_covariances, states_behind, unigram_bits_per_byte
from efface.scrubbing.methods import ScrubMethod
from efface.scrubbing.scrubber import ConceptScrubber
from efface.scrubbing.tokens import TokenData
from efface.softmax import fit_softmax

SCRUBBER_FILE = "scrubber.safetensors"


@dataclass(frozen=True, kw_only=True)
class ScrubbingEvaluation:
    """What is measured.

    Args:
        probe: train a linear probe for the tags behind every erased layer (every normalisation, if none is erased).
        probe_tokens: labelled tokens that it is trained and scored on, drawn at random; all if there are fewer.
        fit_information: measure what a linear probe gains on the data fitted on, all of them; nil if the concept is
            guarded. For erasers that promise it, and states of at most `fit_bytes`.
        fit_bytes: see there.
    """

    probe: bool = True
    probe_tokens: int = 20_000
    fit_information: bool = True
    fit_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        if self.probe_tokens < 10:
            raise ValueError(f"probe_tokens is {self.probe_tokens}, but must be at least 10")


@dataclass(frozen=True, kw_only=True)
class ScrubbingRun(Run):
    """The configured parts of one run."""

    dataset: TextSource
    model: ModelSource
    training: LmTraining | NoTraining
    method: ScrubMethod
    evaluation: ScrubbingEvaluation

    def fingerprint(self) -> str:
        return self.dataset.fingerprint(self.data_dir)

    def record(self, say: Callable[[str], None]) -> Record:
        return _ScrubRun(self, say).record()


class _ScrubRun(Steps):
    """The steps of one run."""

    def __init__(self, experiment: ScrubbingRun, say: Callable[[str], None]) -> None:
        super().__init__(experiment.device)
        self.experiment, self.say = experiment, say
        self.batch_size = int(experiment.config["model"].get("batch_size", 32))

    def record(self) -> Record:
        e = self.experiment
        peak = PeakMemory(self.device)
        subdir = run_subdir(e.config, e.seed)
        e.tracker.start(
            config={**e.config, "seed": e.seed}, name=str(subdir), group=str(subdir.parent), directory=e.directory
        )
        with self._clock("data"):
            text = e.dataset.load(e.data_dir)
        lm = self._language_model(text)
        for row in lm.facts.get("history", []):
            e.tracker.epoch(row)
        with self._clock("features"):
            train, dev, test = (lm.tokenise(part, text.tags) for part in (text.train, text.dev, text.test))
        with self._clock("method"):
            scrubber = e.method.fit(lm, train, seed=e.seed, batch_size=self.batch_size, progress=e.progress)
        with self._clock("evaluation"):
            paths = list(scrubber.erasers) or family_of(lm.model).paths(lm.model)
            scales = self._scales(lm, train, scrubber, paths)
            val_metrics, _ = self._evaluate(lm, scrubber, dev, paths, scales, len(text.tags))
            metrics, layers = self._evaluate(lm, scrubber, test, paths, scales, len(text.tags))
            on_fit = self._on_fit(lm, scrubber, train, scales, len(text.tags))
        for layer in layers:
            eraser = scrubber.erasers.get(layer["path"])
            layer["rank"] = 0 if eraser is None else eraser.rank
            layer |= on_fit.get(layer["path"], {"max_abs_cov": None, "fit_information": None})
        metrics["max_abs_cov"] = max((row["max_abs_cov"] for row in on_fit.values()), default=None)
        scrubber.save(e.directory / SCRUBBER_FILE)
        labelled = train.z[train.z >= 0]
        info = {
            "layers": layers,
            "rank": max((eraser.rank for eraser in scrubber.erasers.values()), default=0),
            "n_fit": len(labelled),
            "d": max((len(eraser.proj_left) for eraser in scrubber.erasers.values()), default=None),
            "tags": list(text.tags),
            "unigram_bits_per_byte": unigram_bits_per_byte(test),
            "bytes": int(test.n_bytes.sum()),
            "parameters": sum(p.numel() for p in lm.model.parameters()),
            "model_digest": _digest(lm.model),
            "training": {"history": lm.facts.get("history", [])},
        }
        return Record(
            id=run_id(e.config), config=identity(e.config), seed=e.seed, fingerprint=text.fingerprint, status="done",
            metrics=metrics, val_metrics=val_metrics, info=info, artifacts=[SCRUBBER_FILE],
            run=self._circumstances_with_transformers(peak),
        )  # fmt: skip

    def _language_model(self, text: TaggedText) -> LanguageModel:
        e = self.experiment
        key = {
            **{node: identity(e.config)[node] for node in ("dataset", "model", "training")},
            "seed": e.seed,
            "fingerprint": text.fingerprint,
        }

        def cached(build: Callable[[], Trained]) -> Trained:
            tensors, facts, self.cache_hits["model"] = cache.cached(
                e.cache_dir, "language_model", key, build, say=self.say
            )
            return tensors, facts

        lm = e.model.load(
            text, e.training, seed=e.seed, device=self.device, cached=cached, progress=e.progress
        )  # fmt: skip
        self.seconds["training"] = lm.facts.get("training_seconds", 0.0)
        return lm

    def _scales(
        self, lm: LanguageModel, train: TokenData, scrubber: ConceptScrubber, paths: list[str]
    ) -> dict[str, Standardiser]:
        """From the states of the model as it is, on tokens of train."""
        untouched = ConceptScrubber(scrubber.pre_hook)
        tokens = self._sample(train)
        states = states_behind(lm, untouched, train, paths, batch_size=self.batch_size, tokens=tokens)
        return {path: Standardiser.of(x.double()) for path, x in states.items()}

    def _evaluate(
        self, lm: LanguageModel, scrubber: ConceptScrubber, data: TokenData, paths: list[str],
        scales: dict[str, Standardiser], n_labels: int,
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
        metrics: dict[str, Any] = {"bits_per_byte": bits_per_byte(lm, scrubber, data, batch_size=self.batch_size)}
        layers: list[dict[str, Any]] = [{"path": path} for path in paths]
        names = ("probe_information", "probe_accuracy", "probe_majority")
        if self.experiment.evaluation.probe:
            tokens = self._sample(data)
            states = states_behind(lm, scrubber, data, paths, batch_size=self.batch_size, tokens=tokens)
            z = data.z[tokens]
            for layer in layers:
                probe = linear_probe(scales[layer["path"]](states[layer["path"]].double()), z, z, n_labels)
                layer |= dict(zip(names, (probe.information, probe.accuracy, probe.majority), strict=True))
            most = max(layers, key=lambda layer: float(layer["probe_information"]))
            metrics |= {name: most[name] for name in names}
            metrics["probe_layer"] = most["path"]
        else:
            metrics |= dict.fromkeys((*names, "probe_layer"))
        return metrics, layers

    def _sample(self, data: TokenData) -> Tensor:
        """Some of the labelled tokens, always the same ones, `[n, t]` bool."""
        places = ((data.z >= 0) & (data.attention_mask > 0)).flatten().nonzero()[:, 0]
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
        chosen = torch.zeros(data.z.numel(), dtype=torch.bool)
        chosen[places[order[: self.experiment.evaluation.probe_tokens]]] = True
        return chosen.view_as(data.z)

    def _on_fit(
        self, lm: LanguageModel, scrubber: ConceptScrubber, train: TokenData, scales: dict[str, Standardiser],
        n_labels: int,
    ) -> dict[str, dict[str, Any]]:  # fmt: skip
        """What is left of the concept on the data fitted on, by path; nothing if nothing is erased."""
        if not scrubber.erasers:
            return {}
        paths, labelled = list(scrubber.erasers), (train.z >= 0) & (train.attention_mask > 0)
        covariances = largest_covariances(lm, scrubber, train, paths, n_labels, batch_size=self.batch_size)
        found: dict[str, dict[str, Any]] = {
            path: {"max_abs_cov": value, "fit_information": None} for path, value in covariances.items()
        }
        z = train.z[labelled]
        for path, eraser in scrubber.erasers.items():
            size = 4 * len(z) * len(eraser.proj_left)
            wanted = self.experiment.evaluation.fit_information and size <= self.experiment.evaluation.fit_bytes
            if wanted and isinstance(eraser, LeaceEraser):
                states = states_behind(lm, scrubber, train, [path], batch_size=self.batch_size, tokens=labelled)
                found[path]["fit_information"] = information_gain(scales[path](states[path].double()), z, n_labels)
        return found

    def _circumstances_with_transformers(self, peak: PeakMemory) -> dict[str, Any]:
        run = self._circumstances(peak)
        run["versions"]["transformers"] = importlib.metadata.version("transformers")
        return run


def information_gain(x: Tensor, z: Tensor, n_labels: int, *, l2: float = 1e-7) -> float:
    """H(z) minus the cross-entropy of the best softmax regression on the same data, in bits; 0 if z is guarded.

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


def _digest(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
