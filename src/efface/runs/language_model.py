"""One run on stereotypes: text that tells of gender, language model, method, CrowS-Pairs and StereoSet.

`metrics` are on CrowS-Pairs and on StereoSet's test, `val_metrics` on its dev.
"""

from dataclasses import dataclass
from typing import Any

from efface.files import digest
from efface.runs.base import Outcome
from efface.runs.scrubbing import SCRUBBER_FILE
from efface.runs.session import Session
from efface.runs.text import TextRun
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.methods import ScrubMethod
from efface.scrubbing.tokens import TokenData
from efface.stereotypes.evaluation import StereotypeEvaluation, StereotypeMeasures
from efface.stereotypes.intervention import Intervention
from efface.stereotypes.unlearning import HeadMethod
from efface.tensorfiles import content_digest

HEAD_FILE = "output_layer.safetensors"


@dataclass(frozen=True, kw_only=True)
class LanguageModelRun(TextRun):
    """The configured parts of one run on stereotypes."""

    method: ScrubMethod | HeadMethod
    evaluation: StereotypeEvaluation

    def fingerprint(self) -> str:
        parts = [
            self.dataset.fingerprint(self.data_dir),
            self.model.fingerprint(self.cache_dir),
            self.evaluation.fingerprint(self.data_dir),
        ]
        if isinstance(self.method, HeadMethod):
            parts.append(self.method.fingerprint(self.data_dir))
        return digest(*(part.encode() for part in parts))

    def compute(self, session: Session) -> Outcome:
        names = {node: self.config[node]["name"] for node in ("model", "method")}
        session.say("{model}, {method}: the method, then sentence by sentence; this takes minutes".format(**names))
        with session.clock("data"):
            text = self.dataset.load(self.data_dir)
        lm = self.language_model(text, session)
        with session.clock("features"):
            train, dev, test = (lm.tokenise(part, text.tags).by_length() for part in (text.train, text.dev, text.test))
        with session.clock("method"):
            intervention = self._fit(lm, train, session)
        with session.clock("evaluation"):
            measure = self.evaluation
            options: dict[str, Any] = {"data_dir": self.data_dir, "progress": session.progress}
            on_val = measure(lm, intervention, dev, "dev", **options) if measure.dev else StereotypeMeasures()
            on_test = measure(lm, intervention, test, "test", **options)
        return self._outcome(lm, intervention, on_val, on_test, train, list(text.tags))

    def _fit(self, lm: LanguageModel, train: TokenData, session: Session) -> Intervention:
        if isinstance(self.method, HeadMethod):
            return self.method.fit(
                lm, train, self.evaluation, data_dir=self.data_dir, seed=self.seed, progress=session.progress
            )
        scrubber = self.method.fit(
            lm, train, seed=self.seed, batch_size=self.evaluation.batch_size, progress=session.progress
        )
        return Intervention(scrubber=scrubber)

    def _outcome(
        self,
        lm: LanguageModel,
        intervention: Intervention,
        on_val: StereotypeMeasures,
        on_test: StereotypeMeasures,
        train: TokenData,
        tags: list[str],
    ) -> Outcome:
        erasers = intervention.scrubber.erasers
        info = {
            "layers": [{"path": path, "rank": eraser.rank} for path, eraser in erasers.items()],
            "rank": max((eraser.rank for eraser in erasers.values()), default=0),
            "n_fit": int((train.z >= 0).sum()),
            "tags": tags,
            "parameters": sum(p.numel() for p in lm.model.parameters()),
            "model_digest": content_digest(dict(lm.model.named_parameters()))[:16],
            "training": {"history": lm.facts.get("history", [])},
            **intervention.info,
        }
        return Outcome(
            metrics=on_test.metrics,
            metrics_ci=on_test.intervals,
            val_metrics=on_val.metrics,
            reasons=on_test.reasons,
            val_reasons=on_val.reasons,
            info=info,
            writers={HEAD_FILE: intervention.save_head}
            if intervention.head is not None
            else {SCRUBBER_FILE: intervention.scrubber.save},
        )
