"""One run of concept scrubbing: text, language model, scrubber, evaluation.

`metrics` has, on test, `bits_per_byte`, and `probe_information`, `probe_accuracy` and `probe_majority` of the layer
where the probe reads most; `info["layers"]` has them layer by layer.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from efface.files import digest
from efface.runs.base import Outcome
from efface.runs.session import Session
from efface.runs.text import TextRun
from efface.scrubbing.evaluation import ScrubbingEvaluation
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.measure import unigram_bits_per_byte
from efface.scrubbing.methods import ScrubMethod
from efface.scrubbing.scrubber import ConceptScrubber
from efface.scrubbing.tokens import TokenData
from efface.tensorfiles import content_digest

SCRUBBER_FILE = "scrubber.safetensors"


@dataclass(frozen=True, kw_only=True)
class ScrubbingRun(TextRun):
    """The configured parts of one run of concept scrubbing."""

    required_artifacts: ClassVar[tuple[str, ...]] = (SCRUBBER_FILE,)

    method: ScrubMethod
    evaluation: ScrubbingEvaluation

    def fingerprint(self) -> str:
        data, weights = self.dataset.fingerprint(self.data_dir), self.model.fingerprint(self.cache_dir)
        return digest(data.encode(), weights.encode()) if weights else data

    def compute(self, session: Session) -> Outcome:
        names = {node: self.config[node]["name"] for node in ("dataset", "model", "method")}
        session.say(
            "{dataset}, {model}, {method}: the model (trained unless it is in the cache), erasers layer by layer, "
            "then probes behind every layer; this takes minutes".format(**names)
        )
        with session.clock("data"):
            text = self.dataset.load(self.data_dir)
        lm = self.language_model(text, session)
        with session.clock("features"):
            train, dev, test = (lm.tokenise(part, text.tags) for part in (text.train, text.dev, text.test))
        with session.clock("method"):
            scrubber = self.method.fit(
                lm, train, seed=self.seed, batch_size=self.evaluation.batch_size, progress=session.progress
            )
        with session.clock("evaluation"):
            return self._evaluate(lm, scrubber, train, dev, test, text.tags, session.progress)

    def _evaluate(
        self,
        lm: LanguageModel,
        scrubber: ConceptScrubber,
        train: TokenData,
        dev: TokenData,
        test: TokenData,
        tags: tuple[str, ...],
        progress: bool,
    ) -> Outcome:
        evaluation, n_labels = self.evaluation, len(tags)
        sites = evaluation.sites(lm, scrubber)
        scales = evaluation.scales(lm, scrubber, train, sites, progress=progress)
        on_val, on_test = (evaluation(lm, scrubber, data, scales, n_labels, progress=progress) for data in (dev, test))
        on_fit = evaluation.on_fit(lm, scrubber, train, scales, n_labels, progress=progress)
        ranks = {path: eraser.rank for path, eraser in scrubber.erasers.items()}
        unknown = {"max_abs_cov": None, "fit_information": None}
        read = {layer["path"]: layer for layer in on_test.layers}
        layers = [
            {"path": path, **read.get(path, {}), "rank": ranks.get(path, 0), **on_fit.get(path, unknown)}
            for path in sites
        ]
        largest = max((row["max_abs_cov"] or 0.0 for row in on_fit.values()), default=None)
        info = {
            "layers": layers,
            "rank": max(ranks.values(), default=0),
            "n_fit": int((train.z >= 0).sum()),
            "d": max((len(eraser.proj_left) for eraser in scrubber.erasers.values()), default=None),
            "tags": list(tags),
            **_about(lm, test),
        }
        return Outcome(
            metrics=on_test.metrics | {"max_abs_cov": largest},
            val_metrics=on_val.metrics,
            reasons=on_test.reasons | ({} if largest is not None else {"max_abs_cov": _unmeasured(scrubber)}),
            val_reasons=on_val.reasons,
            info=info,
            writers={SCRUBBER_FILE: scrubber.save},
        )


def _unmeasured(scrubber: ConceptScrubber) -> str:
    return "it is switched off (evaluation.fit_information)" if scrubber.erasers else "nothing is erased"


def _about(lm: LanguageModel, test: TokenData) -> dict[str, Any]:
    """Return what a record tells of the model, and of the text that it is tested on."""
    return {
        "unigram_bits_per_byte": unigram_bits_per_byte(test),
        "bytes": int(test.n_bytes.sum()),
        "parameters": sum(p.numel() for p in lm.model.parameters()),
        "model_digest": content_digest(dict(lm.model.named_parameters()))[:16],
        "training": {"history": lm.facts.get("history", [])},
    }
