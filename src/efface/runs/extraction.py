"""From a base model to the features that methods and evaluation work on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from efface.cache import Entry
from efface.data.base import Dataset, Pairs, Split, TensorSplit, flip_pairs
from efface.devices import Precision, resolve_precision
from efface.files import digest
from efface.models.base import Model
from efface.problem import Features, Problem
from efface.runs.session import require_finite
from efface.tensorfiles import content_digest
from efface.training import read_out

Cached = Callable[[Mapping[str, Any], Callable[[], Entry]], Entry]
"""Called with a key and what makes the entry; returns the entry, from the cache where it is there."""


@dataclass(frozen=True, kw_only=True)
class SplitFeatures:
    """Features of each split, and of counterfactuals of its samples, row by row."""

    train: Features
    val: Features
    test: Features
    pairs: Features
    pairs_cf: Features
    val_cf: Features | None = None
    """None where no counterfactual of a sample exists in these data, as of test."""
    test_cf: Features | None = None


@dataclass(frozen=True)
class _View:
    """Some rows of a split, as the model is shown them."""

    split: Split
    rows: Tensor
    a: Tensor
    """`[n]`: the attribute that counts as theirs."""
    flipped: bool = False
    """Whether they are shown under `a`, and not under their own attribute."""


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Features of a data set by a model, computed once for each cut; a `FeatureSource` of problems.

    Args:
        model: trained below the head at least; moved to `device`, frozen and in evaluation mode.
        dataset: what it reads.
        inputs: what determines the inputs of the splits, for the key of the cache.
        cached: keeps features of a model with parameters below the cut. Its key has all that determines them.
        seed: draws the attributes of counterfactuals.
        device: where the model is, and where features are to be.
        precision: that of the products; see `efface.devices`.
        progress: whether to show progress bars.
    """

    model: Model
    dataset: Dataset
    inputs: Mapping[str, Any]
    cached: Cached
    seed: int
    device: str
    precision: Precision
    progress: bool = True
    _by_cut: dict[int, SplitFeatures] = field(default_factory=dict, init=False, repr=False)

    def features(self, cut: int) -> SplitFeatures:
        """Return the features before the last `cut` linear layers.

        Raises:
            FloatingPointError: some are NaN or infinite.
            ValueError: the model does not end in so many linear layers.
        """
        if cut not in self._by_cut:
            views = _views(self.dataset)
            read = self._read(cut, views)
            require_finite(read, what="the base model's output before its last layers")
            self._by_cut[cut] = SplitFeatures(
                **{name: self._labelled(read[name], view) for name, view in views.items()}
            )
        return self._by_cut[cut]

    def as_inputs(self) -> Dataset:
        """Return the data set with the features before the head in place of the inputs of train and val."""
        dataset, features = self.dataset, self.features(1)
        train, val = (
            TensorSplit(index=split.index, y=split.y, a=split.a, x=read.x.cpu())
            for split, read in ((dataset.train, features.train), (dataset.val, features.val))
        )
        return replace(dataset, train=train, val=val, input_shape=tuple(train.x.shape[1:]), flippable=False)

    def flip(self, rows: Tensor, cut: int) -> Features:
        """Return train rows `[k]` under another attribute, drawn once for each row of train."""
        train = self.dataset.train
        draws = torch.Generator().manual_seed(self.seed)
        pairs = flip_pairs(train, len(self.dataset.attributes), draws)
        view = _View(train, rows.cpu(), pairs.a_cf[rows.cpu()], flipped=True)
        return self._labelled(self._read_view(self.model.cut(cut)[0], view), view)

    def of_inputs(self, x: Tensor, cut: int) -> Tensor:
        """Return the features of inputs x `[n, ...]` that are in no split, before the last `cut` linear layers."""
        nothing = torch.zeros(len(x), dtype=torch.int64)
        view = _View(TensorSplit(nothing, nothing, nothing, x), torch.arange(len(x)), nothing)
        return self._read_view(self.model.cut(cut)[0], view).to(self.device)

    def layers(self, cut: int) -> nn.Sequential:
        """Return the last `cut` linear layers; ValueError if the model does not end in so many."""
        return self.model.cut(cut)[1]

    def problem(self, cut: int) -> Problem:
        """Return what a method sees at a cut. Test stays here."""
        features, dataset = self.features(cut), self.dataset
        return Problem(
            train=features.train,
            val=features.val,
            pairs=features.pairs,
            pairs_cf=features.pairs_cf,
            head=self.model.head,
            n_classes=len(dataset.classes),
            n_attributes=len(dataset.attributes),
            flippable=dataset.flippable,
            seed=self.seed,
            device=self.device,
            attribute_columns=dataset.attribute_columns,
            per_sample_inputs=dataset.per_sample_inputs,
            features_are_inputs=not has_parameters(self.model.cut(cut)[0]),
            depth=cut,
            source=self,
        )

    def _read(self, cut: int, views: Mapping[str, _View]) -> dict[str, Tensor]:
        backbone = self.model.cut(cut)[0]
        if not has_parameters(backbone):  # the features are the inputs
            return {name: self._read_view(backbone, view, name) for name, view in views.items()}
        key = {
            "backbone": content_digest(backbone.state_dict()),
            "cut": cut,
            "precision": str(resolve_precision(self.precision, backbone, self.device)),
        }
        if self.dataset.inputs_key is not None:
            return self._taken(*self._read_all(backbone, key), views)

        def build() -> Entry:
            return {name: self._read_view(backbone, view, name) for name, view in views.items()}, {}

        return self.cached({**self.inputs, **key}, build)[0]

    def _read_all(self, backbone: nn.Module, key: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the sorted ids `[n]` of all samples, and features `[n, d]`: one entry for every task on them."""
        splits = {
            "train": self.dataset.train,
            "val": self.dataset.val,
            "pairs": self.dataset.pairs.split,
            "test": self.dataset.test,
        }
        index, order = torch.cat([split.index for split in splits.values()]).sort()

        def build() -> Entry:
            wholes = ((_View(split, torch.arange(len(split)), split.a), name) for name, split in splits.items())
            return {"x": torch.cat([self._read_view(backbone, view, name) for view, name in wholes])[order]}, {}

        samples = digest(index.numpy().tobytes())
        return index, self.cached({"inputs": self.dataset.inputs_key, "samples": samples, **key}, build)[0]["x"]

    def _taken(self, index: Tensor, x: Tensor, views: Mapping[str, _View]) -> dict[str, Tensor]:
        """Take the rows of each view, by their ids, out of the features of all samples."""
        return {name: x[torch.searchsorted(index, view.split.index[view.rows])] for name, view in views.items()}

    def _read_view(self, backbone: nn.Module, view: _View, name: str | None = None) -> Tensor:
        return read_out(
            backbone,
            view.split,
            rows=view.rows,
            a=view.a if view.flipped else None,
            device=self.device,
            precision=self.precision,
            progress=name if self.progress else None,
        )

    def _labelled(self, x: Tensor, view: _View) -> Features:
        cluster = view.split.cluster
        return Features(
            x.to(self.device),
            view.split.y[view.rows].to(self.device),
            view.a.to(self.device),
            cluster=None if cluster is None else cluster[view.rows].to(self.device),
        )


def _views(dataset: Dataset) -> dict[str, _View]:
    """Return what each field of `SplitFeatures` is read from."""

    def whole(split: Split) -> _View:
        return _View(split, torch.arange(len(split)), split.a)

    def counterfactual(pairs: Pairs) -> _View:
        return _View(pairs.split, pairs.rows_cf, pairs.a_cf, flipped=dataset.flippable)

    views = {
        "train": whole(dataset.train),
        "val": whole(dataset.val),
        "test": whole(dataset.test),
        "pairs": _View(dataset.pairs.split, dataset.pairs.rows, dataset.pairs.a),
        "pairs_cf": counterfactual(dataset.pairs),
    }
    evaluated = {"val_cf": dataset.val_pairs, "test_cf": dataset.test_pairs}
    return views | {name: counterfactual(pairs) for name, pairs in evaluated.items() if pairs.counterfactual}


def has_parameters(module: nn.Module) -> bool:
    """Return whether a module has any parameter, trainable or not."""
    return any(True for _ in module.parameters())
