"""One run of a debiasing method, from configured parts to a record: data, base model, features, method, evaluation.

The base model and the features are shared by all methods through the cache.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from efface import cache
from efface.data.base import Dataset, Pairs, Source, Split, flip_pairs
from efface.debiased import MODEL_FILE, Debiased
from efface.evaluation.evaluate import Evaluated, Evaluation, Reference
from efface.files import write_atomically
from efface.identity import identity, run_id, run_subdir
from efface.methods.base import Method
from efface.models.base import Model
from efface.problem import Features, Problem
from efface.record import Record
from efface.runs.base import Run, Steps
from efface.runs.provenance import PeakMemory
from efface.training import Erm, Trained, read_out

ARRAYS_FILE, PREDICTIONS_FILE = "arrays.safetensors", "predictions.parquet"


@dataclass(frozen=True, kw_only=True)
class GridRun(Run):
    """The configured parts of one run of a debiasing method."""

    dataset: Source
    model: Callable[..., Model]
    """Called with `input_shape` and `n_classes`."""
    training: Erm
    method: Method
    evaluation: Evaluation

    def fingerprint(self) -> str:
        return self.dataset.fingerprint(self.data_dir)

    def record(self, say: Callable[[str], None]) -> Record:
        return _Run(self, say).record()


class _Run(Steps):
    """The steps of one run."""

    def __init__(self, experiment: GridRun, say: Callable[[str], None]) -> None:
        super().__init__(experiment.device)
        self.experiment, self.say = experiment, say

    def record(self) -> Record:
        e = self.experiment
        peak = PeakMemory(self.device)
        e.tracker.start(
            config={**e.config, "seed": e.seed}, name=f"{e.label or e.config['method']['name']} seed={e.seed}",
            group=str(run_subdir(e.config, e.seed).parent), directory=e.directory,
        )  # fmt: skip
        with self._clock("data"):
            dataset = e.dataset.load(data_dir=e.data_dir, cache_dir=e.cache_dir, seed=e.seed)
        model, trained = self._base_model(dataset)
        for row in trained.history:
            e.tracker.epoch(row)
        at_cut = functools.cache(lambda m: self._features(model, dataset, m))
        with self._clock("features"):
            features = at_cut(1)
        problem = self._problem(model, dataset, at_cut, 1)
        common: dict[str, Any] = {
            "id": run_id(e.config), "config": identity(e.config), "seed": e.seed, "fingerprint": dataset.fingerprint,
        }  # fmt: skip
        reason = e.method.skip(problem)
        if reason is not None:
            self.say(f"not applicable: {reason}")
            return Record(**common, status="not_applicable", reason=reason, run=self._circumstances(peak))
        with self._clock("method"):
            debiased = e.method.fit(problem)
        with self._clock("evaluation"):
            reference = Reference.of(problem.train, problem.n_classes, problem.n_attributes)
            features = at_cut(debiased.cut)
            val, test = (
                e.evaluation(debiased, features[name], features.get(f"{name}_cf"), reference)
                for name in ("val", "test")
            )
            metrics_ci = e.evaluation.intervals(test, features["test"], reference)
        artifacts = self._save(debiased, features["test"], dataset, test)
        info = {
            "d": problem.train.x.shape[1],
            **_fitted(debiased),
            **debiased.info,
            "training": {"best_epoch": trained.best_epoch, "history": trained.history},
            "empty_groups": {"val": val.empty_groups, "test": test.empty_groups},
            "reasons": test.reasons,
            "val_reasons": val.reasons,
            "uses_attribute_at_test": e.method.uses_attribute_at_test,
        }
        return Record(
            **common, status="done", metrics=test.metrics, metrics_ci=metrics_ci, val_metrics=val.metrics, info=info,
            artifacts=artifacts, run=self._circumstances(peak),
        )  # fmt: skip

    def _key(self, dataset: Dataset) -> dict[str, Any]:
        config = self.experiment.config
        return {
            **{node: identity(config)[node] for node in ("dataset", "model", "training")},
            "seed": self.experiment.seed,
            "fingerprint": dataset.fingerprint,
            "content": _content(dataset),
        }

    def _base_model(self, dataset: Dataset) -> tuple[Model, Trained]:
        e = self.experiment
        torch.manual_seed(e.seed)
        model = e.model(input_shape=dataset.input_shape, n_classes=len(dataset.classes))

        def build() -> cache.Entry:
            trained = e.training.fit(model, dataset, seed=e.seed, device=self.device, progress=e.progress)
            facts = {"history": trained.history, "best_epoch": trained.best_epoch, "seconds": trained.seconds}
            return dict(model.state_dict()), facts

        tensors, facts, hit = cache.cached(e.cache_dir, "model", self._key(dataset), build, say=self.say)
        model.load_state_dict(tensors)
        self.seconds["training"] = facts["seconds"]
        self.cache_hits["model"] = hit
        return model.to(self.device).eval(), Trained(**facts)

    def _problem(self, model: Model, dataset: Dataset, at_cut: Callable[[int], dict[str, Features]], m: int) -> Problem:
        """What a method sees, at the features before the last m linear layers. Test stays here."""
        e, train = self.experiment, dataset.train
        model.requires_grad_(False)
        backbone, _ = model.cut(m)

        def flip(rows: torch.Tensor) -> Features:
            a_cf = flip_pairs(train, len(dataset.attributes), torch.Generator().manual_seed(e.seed)).a_cf
            rows = rows.cpu()
            x = read_out(backbone, train, rows=rows, a=a_cf[rows], device=self.device, precision=e.training.precision)
            return Features(*(t.to(self.device) for t in (x, train.y[rows], a_cf[rows])))

        def split_model(m: int) -> tuple[Problem, torch.nn.Sequential]:
            layers = model.cut(m)[1]  # first: it says if there are none
            return self._problem(model, dataset, at_cut, m), layers

        features = at_cut(m)
        return Problem(
            train=features["train"], val=features["val"], pairs=features["pairs"], pairs_cf=features["pairs_cf"],
            head=model.head, n_classes=len(dataset.classes), n_attributes=len(dataset.attributes),
            flippable=dataset.flippable, seed=e.seed, device=self.device,
            attribute_columns=dataset.attribute_columns, features_are_inputs=not _has_parameters(backbone),
            flip=flip if dataset.flippable else None, split_model=split_model,
        )  # fmt: skip

    def _features(self, model: Model, dataset: Dataset, m: int) -> dict[str, Features]:
        """Features of train, val, pairs and test, and of their counterfactuals as `<name>_cf`.

        They are those before the last m linear layers.
        """
        e = self.experiment
        backbone, _ = model.cut(m)
        views: dict[str, tuple[Split, torch.Tensor, torch.Tensor | None, torch.Tensor]] = {}
        for name, split in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test)):
            views[name] = (split, torch.arange(len(split)), None, split.a)
        views["pairs"] = (dataset.pairs.split, dataset.pairs.rows, None, dataset.pairs.a)
        counterfactuals: dict[str, Pairs] = {"pairs_cf": dataset.pairs}
        if dataset.flippable:
            counterfactuals |= {"val_cf": dataset.val_pairs, "test_cf": dataset.test_pairs}
        for name, pairs in counterfactuals.items():
            views[name] = (pairs.split, pairs.rows_cf, pairs.a_cf if dataset.flippable else None, pairs.a_cf)

        def build() -> cache.Entry:
            read = {
                name: read_out(
                    backbone,
                    split,
                    rows=rows,
                    a=shown,
                    device=self.device,
                    precision=e.training.precision,
                    progress=name if e.progress else None,
                )
                for name, (split, rows, shown, _) in views.items()
            }
            return read, {}

        if _has_parameters(backbone):
            key = {**self._key(dataset), "model_content": _digest(model.state_dict().values())}
            if m > 1:
                key["cut"] = m
            read, _, hit = cache.cached(e.cache_dir, "features", key, build, say=self.say)
        else:  # the features are the inputs
            (read, _), hit = build(), False
        self.cache_hits.setdefault("features", hit)
        return {
            name: Features(
                read[name].to(self.device), split.y[rows].to(self.device), a.to(self.device),
                cluster=None if split.cluster is None else split.cluster[rows].to(self.device),
            )
            for name, (split, rows, _, a) in views.items()
        }  # fmt: skip

    def _save(self, debiased: Debiased, test: Features, dataset: Dataset, evaluated: Evaluated) -> list[str]:
        import pandas as pd
        from safetensors.torch import save

        directory = self.experiment.directory
        columns = {"index": dataset.test.index, "y": test.y, "a": test.a, **evaluated.predictions}
        predictions = pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})
        writers: dict[str, Callable[[Path], object]] = {
            MODEL_FILE: debiased.save,
            PREDICTIONS_FILE: lambda path: predictions.to_parquet(path, index=False),
        }
        if debiased.arrays:
            arrays = debiased.arrays | _images(dataset, debiased.arrays)
            content = save({name: array.cpu().contiguous() for name, array in arrays.items()})
            writers[ARRAYS_FILE] = lambda path: path.write_bytes(content)
        for name, write in writers.items():
            write_atomically(directory / name, write)
        return sorted(writers)


def _has_parameters(module: torch.nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _fitted(debiased: Debiased) -> dict[str, Any]:
    """How many samples a method was fitted on, and how many unweighted ones their weights are worth."""
    data = debiased.fitted_on
    if data is None:
        return {}
    weight = torch.ones(len(data)) if data.weight is None else data.weight.double()
    return {"n_fit": len(data), "n_eff": float(weight.sum().square() / weight.square().sum())}


def _images(dataset: Dataset, arrays: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """uint8 `[m, h, w, c]` of the train rows that a method names `<name>_rows`, as `<name>_images`; none of no images.

    Inputs that do not lie in 0 … 1, such as normalised ones, are stretched to it.
    """
    if len(dataset.input_shape) != 3 or dataset.input_shape[0] not in (1, 3):
        return {}
    images = {}
    for name, rows in arrays.items():
        if name.endswith("_rows"):
            x = dataset.train.inputs(rows.cpu())
            if len(x) and (float(x.min()) < 0 or float(x.max()) > 1):
                x = (x - x.min()) / (x.max() - x.min()).clamp_min(1e-12)
            images[name.removesuffix("rows") + "images"] = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return images


def _digest(tensors: Iterable[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _content(dataset: Dataset) -> str:
    """A digest of ids, labels, attributes and some inputs of a loaded data set.

    In the cache's key, so that a change of the code that makes the data is not answered with models of the old data.
    """
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.val, dataset.pairs.split, dataset.test):
        some = torch.arange(min(32, len(split)))
        for tensor in (split.index, split.y, split.a, split.inputs(some)):
            digest.update(tensor.numpy().tobytes())
    for pairs in (dataset.pairs, dataset.val_pairs, dataset.test_pairs):
        digest.update(pairs.rows_cf.numpy().tobytes() + pairs.a_cf.numpy().tobytes())
    return digest.hexdigest()[:16]
