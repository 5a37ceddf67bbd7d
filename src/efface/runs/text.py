"""What runs on language models have in common: a text, a model, and how it is trained if it has to be."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from efface.data.conllu import TaggedText, TextSource
from efface.runs.base import Run
from efface.runs.session import UNTRAINED, Session, require_finite
from efface.scrubbing.language_models import LanguageModel, LmTraining, ModelSource, NoTraining, Trained


@dataclass(frozen=True, kw_only=True)
class TextRun(Run):
    """The configured parts that every such run has."""

    packages: ClassVar[tuple[str, ...]] = (*Run.packages, "transformers")

    dataset: TextSource
    model: ModelSource
    training: LmTraining | NoTraining

    def language_model(self, text: TaggedText, session: Session) -> LanguageModel:
        """Load the model, or train it unless it is in the cache."""

        def cached(build: Callable[[], Trained]) -> Trained:
            def checked() -> Trained:
                tensors, facts = build()
                require_finite(tensors, what="the language model")
                return tensors, facts

            return session.cached("model", self.model_key(text.fingerprint), checked)

        lm = self.model.load(
            text, self.training, seed=self.seed, device=session.device, cached=cached, progress=session.progress
        )
        if isinstance(self.training, LmTraining) and self.training.epochs == 0:
            session.say(UNTRAINED)
        session.trained(lm.facts.get("history", []), lm.facts.get("training_seconds", 0.0))
        return lm
