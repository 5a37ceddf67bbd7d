"""One run of a debiasing method: data, base model, extraction, method, evaluation.

The base model and the features are shared by all methods through the cache.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from efface.cache import Entry
from efface.data.base import Dataset, Source
from efface.debiased import MODEL_FILE, Debiased
from efface.evaluation.evaluate import Evaluation, Reference
from efface.files import digest
from efface.methods.base import Method, NotApplicable
from efface.models.base import Model, ModelSource
from efface.runs.artifacts import PREDICTIONS_FILE, writers_of
from efface.runs.base import Outcome, Run
from efface.runs.extraction import Extraction, has_parameters
from efface.runs.session import UNTRAINED, Session, require_finite
from efface.training import Erm, NoTraining, Trained


@dataclass(frozen=True, kw_only=True)
class GridRun(Run):
    """The configured parts of one run of a debiasing method."""

    packages: ClassVar[tuple[str, ...]] = (*Run.packages, "torchvision", "pillow")
    required_artifacts: ClassVar[tuple[str, ...]] = (MODEL_FILE, PREDICTIONS_FILE)

    dataset: Source
    model: Callable[..., Model] | ModelSource
    """Called with `input_shape` and `n_classes`."""
    training: Erm
    method: Method
    evaluation: Evaluation

    @property
    def uses_attribute_at_test(self) -> bool:
        return self.method.uses_attribute_at_test

    @property
    def model_packages(self) -> tuple[str, ...]:
        return self.model.packages if isinstance(self.model, ModelSource) else ()

    def fingerprint(self) -> str:
        data, read = self.dataset.fingerprint(self.data_dir), self.evaluation.fingerprint(self.data_dir)
        return digest(self._with_weights(data).encode(), read.encode()) if read else self._with_weights(data)

    def _with_weights(self, data: str) -> str:
        """Return a digest of the fingerprints of the data and of a model from files; of others, that of the data."""
        weights = self.model.fingerprint() if isinstance(self.model, ModelSource) else ""
        return digest(data.encode(), weights.encode()) if weights else data

    def network(self, dataset: Dataset) -> Model:
        """Build the base model, before it is trained: the configured one, as the way of training has it."""
        model = self.model(input_shape=dataset.input_shape, n_classes=len(dataset.classes))
        return self.training.network(model)

    def compute(self, session: Session) -> Outcome:
        extraction, trained = self.prepare(session)
        with session.clock("features"):
            problem = extraction.problem(1)
        reason = self.method.skip(problem)
        if reason is not None:
            return Outcome(not_applicable=reason)
        try:
            with session.clock("method"):
                debiased = self.method.fit(problem)
        except NotApplicable as error:  # what only fitting can tell
            return Outcome(not_applicable=str(error))
        with session.clock("evaluation"):
            return self._evaluate(debiased, extraction, trained)

    def prepare(self, session: Session) -> tuple[Extraction, Trained]:
        """Load the data, and train the base model or read it from the cache: all that comes before the method."""
        with session.clock("data"):
            dataset = self.dataset.load(data_dir=self.data_dir, cache_dir=self.cache_dir, seed=self.seed)
        self.evaluation.require(dataset, self.data_dir)
        code = self.model.code() if isinstance(self.model, ModelSource) else {}
        content = _content(dataset, read=not (self.training.head_only and dataset.inputs_key))
        # Of the data as they were read: the files may have changed since.
        key = {**self.model_key(self._with_weights(dataset.fingerprint)), "content": content, **code}
        self._require_reader(dataset)
        torch.manual_seed(self.seed)
        model = self.network(dataset)
        extraction = Extraction(
            model=model,
            dataset=dataset,
            seed=self.seed,
            device=session.device,
            precision=self.training.precision,
            inputs={name: key[name] for name in ("dataset", "seed", "fingerprint", "content")},
            cached=lambda what, build: session.cached("features", {"model": key["model"], **code, **what}, build),
            progress=session.progress,
        )
        return extraction, self._train(extraction, key, session)

    def _train(self, extraction: Extraction, key: dict[str, Any], session: Session) -> Trained:
        """Train the base model of an extraction, if it is to be, and freeze it on the session's device."""
        model = extraction.model
        self._require_weights(model)
        if self.training.trains:
            trained = self._fit(extraction, key, session)
        else:
            require_finite(model.state_dict(), what="the base model")
            trained = Trained(history=[], best_epoch=-1, seconds=0.0)
            if not model.whole:
                session.say(UNTRAINED)
        session.trained(trained.history, trained.seconds)
        model.to(session.device).eval().requires_grad_(False)
        return trained

    def _fit(self, extraction: Extraction, key: dict[str, Any], session: Session) -> Trained:
        """Train the base model of an extraction, or its head, through the cache."""
        model = learner = extraction.model
        if self.training.head_only:
            model.to(session.device).eval()
            learner = Model(nn.Identity(), model.head)

        def build() -> Entry:
            dataset = extraction.dataset
            if self.training.head_only:
                with session.clock("features"):
                    dataset = extraction.as_inputs()
            trained = self.training.fit(
                learner, dataset, seed=self.seed, device=session.device, progress=session.progress
            )
            require_finite(learner.state_dict(), what="the base model")
            return dict(learner.state_dict()), vars(trained)

        tensors, facts = session.cached("model", key, build)
        learner.load_state_dict(tensors)
        return Trained(**facts)

    def _require_reader(self, dataset: Dataset) -> None:
        """Refuse a model that cannot read the inputs, or whose outputs are the classes in another order.

        Raises:
            ValueError: the inputs are tokens and the model is one of efface's own, which take quantities; or the files
                of a model that is used as it is name the same classes in another order.
        """
        if dataset.tokens and not isinstance(self.model, ModelSource):
            raise ValueError(
                f"model={self.config['model']['name']} cannot read tokens: take model=transformers, or dataset=text, "
                "which hands out the states of an encoder"
            )
        names = self.model.outputs() if isinstance(self.model, ModelSource) and not self.training.trains else None
        own, data = ([name.casefold() for name in order] for order in (names or (), dataset.classes))
        if own != data and sorted(own) == sorted(data):
            raise ValueError(
                f"the outputs of model={self.config['model']['name']} are {', '.join(names or ())}, but the classes of "
                f"the data, in the order of their values, are {', '.join(dataset.classes)}: let the target hold the "
                "numbers of the outputs"
            )

    def _require_weights(self, model: Model) -> None:
        """Check that what stays as it is, the backbone or the whole model, knows something.

        Raises:
            ValueError: its weights are random.
        """
        names = {node: self.config[node]["name"] for node in ("model", "training")}
        if isinstance(self.training, NoTraining) and not model.whole:
            raise ValueError(
                "training={training} uses the model as it is, but the head of model={model} has random weights: train "
                "it (training=erm), or take model=transformers, or model=custom with model.weights=... or, if its "
                "factory reads them itself, model.pretrained=true".format(**names)
            )
        if self.training.head_only and not model.pretrained and has_parameters(model.backbone):
            raise ValueError(
                "training={training} leaves the backbone as it is, but that of model={model} has random weights: take "
                "model=efficientnet_lite0 or another with weights from elsewhere, or training=erm".format(**names)
            )

    def _evaluate(self, debiased: Debiased, extraction: Extraction, trained: Trained) -> Outcome:
        dataset, fitted_at = extraction.dataset, extraction.features(1)
        reference = Reference.of(fitted_at.train, len(dataset.classes), len(dataset.attributes))
        features = extraction.features(debiased.cut)
        val = self.evaluation(debiased, features.val, features.val_cf, reference)
        test = self.evaluation(debiased, features.test, features.test_cf, reference)
        aside = self.evaluation.aside(debiased, dataset, extraction.of_inputs, self.data_dir)
        info = {
            "d": fitted_at.train.x.shape[1],
            "names": {"target": dataset.target, "classes": dataset.classes, "attributes": dataset.attributes},
            **sample_sizes(debiased),
            **debiased.info,
            # Compared, not asked of the method: one that may fit a head, and finds that nothing is better, has kept it.
            "head": "kept" if computes_the_same(debiased.head, extraction.model.head) else "fitted",
            "training": {"best_epoch": trained.best_epoch, "history": trained.history},
            "empty_groups": {"val": val.empty_groups, "test": test.empty_groups},
            "n_probed": {name: len(probe.rows) for name, probe in test.leakage.probes.items()},
            **aside.info,
        }
        return Outcome(
            metrics=test.metrics | aside.measured.metrics,
            metrics_ci=self.evaluation.intervals(test, features.test, reference),
            val_metrics=val.metrics,
            reasons=test.reasons | aside.measured.reasons,
            val_reasons=val.reasons,
            info=info,
            writers=writers_of(debiased, dataset, test.predictions),
        )


def computes_the_same(layer: nn.Linear, other: nn.Linear) -> bool:
    """Return whether two linear layers have equal weights, and equal biases or none."""
    tensors, others = layer.state_dict(), other.state_dict()
    return tensors.keys() == others.keys() and all(
        torch.equal(t.to(others[name]), others[name]) for name, t in tensors.items()
    )


def sample_sizes(debiased: Debiased) -> dict[str, Any]:
    """Return how many samples a method was fitted on, how many unweighted ones their weights are worth, and the scale.

    The scale of their features, which covariances are compared with, is the root of the mean of their variances.
    """
    data = debiased.fitted_on
    if data is None:
        return {}
    weight = torch.ones(len(data)) if data.weight is None else data.weight.double()
    return {
        "n_fit": len(data),
        "n_eff": float(weight.sum().square() / weight.square().sum()),
        "feature_scale": float(data.x.var(0, correction=0).mean().sqrt()),
    }


def _content(dataset: Dataset, *, read: bool) -> str:
    """Return a digest of ids, labels, attributes and some inputs of a loaded data set.

    In the cache's key, so that a change of the code that makes the data is not answered with models of the old data.

    Args:
        dataset: loaded.
        read: whether to read inputs. Where all training is of cached features, the key of the inputs stands for them.
    """
    parts = [] if read else [str(dataset.inputs_key).encode()]
    for split in (dataset.train, dataset.val, dataset.pairs.split, dataset.test):
        first = torch.arange(min(32, len(split)))
        tensors = [split.index, split.y, split.a, *([split.inputs(first)] if read else [])]
        parts += [tensor.numpy().tobytes() for tensor in tensors]
    for pairs in (dataset.pairs, dataset.val_pairs, dataset.test_pairs):
        parts += [tensor.numpy().tobytes() for tensor in (pairs.rows_cf, pairs.a_cf)]
    return digest(*parts)
