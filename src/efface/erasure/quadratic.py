"""Erasure and editing of a class in means and covariances, where the class of every sample is known."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from efface.erasure.fitting import Fitter
from efface.erasure.frozen import FrozenTensors
from efface.erasure.groupby import groupby
from efface.erasure.inputs import as_concept, as_tensor, count_classes, is_integer, weight_rows
from efface.erasure.optimal_transport import ot_barycenter, ot_map, ot_midpoint
from efface.erasure.shrinkage import optimal_linear_shrinkage
from efface.moments import Moments, as_matrix, as_numbers, require_classes


@dataclass(frozen=True)
class QuadraticEraser(FrozenTensors):
    """Moves every class to one mean and one covariance, that of their barycentre, by optimal transport.

    Afterwards no quadratic classifier reads the class from a Gaussian mixture. The class of each sample is used when it
    is applied.
    """

    _shapes: ClassVar[dict[str, str]] = {"class_means": "kd", "global_mean": "d", "ot_maps": "kdd"}

    class_means: Tensor
    """`[k, d]`"""
    global_mean: Tensor
    """`[d]`: the mean to which all classes are moved."""
    ot_maps: Tensor
    """`[k, d, d]`"""

    @classmethod
    def fit(cls, x: Any, z: Any, **options: Any) -> "QuadraticEraser":
        """Fit on x `[n, d]` and labels z `[n]`; `options` are `weight` `[n]` and those of `QuadraticFitter`.

        Tensors, numpy arrays, pandas frames and lists are taken.
        """
        return QuadraticFitter.fit(x, z, **options).eraser

    def optimal_transport(self, z: int, x: Tensor) -> Tensor:
        """Move x `[..., d]`, all of class z, to the barycentre; the result has the dtype of x, as in `__call__`."""
        _require_class(z, len(self.class_means))
        x = as_numbers(x, self.class_means.dtype)
        rows = as_matrix(x, len(self.global_mean), "x").to(self.class_means.dtype)
        moved: Tensor = (rows - self.class_means[z]) @ self.ot_maps[z].mH + self.global_mean
        return moved.view(x.shape).to(x.dtype)

    def __call__(self, x: Any, z: Any) -> Tensor:
        """Erase from x `[..., d]` the classes z `[...]`.

        The result has the dtype of x (the eraser's if x holds integers).
        """
        features = as_numbers(as_tensor(x, "x"), self.class_means.dtype)
        rows = as_matrix(features, len(self.global_mean), "x")
        labels = _label_rows(features, z, len(self.class_means))
        if torch.compiler.is_compiling():  # a trace cannot sort by label: every class moves every row, k times the work
            moved = rows
            for label in range(len(self.class_means)):
                moved = torch.where(labels[:, None] == label, self.optimal_transport(label, rows), moved)
            return moved.view(features.shape)
        if len(rows) == 0:
            return features
        return groupby(rows, labels).map(self.optimal_transport).coalesce().view(features.shape)


@dataclass(frozen=True)
class QuadraticEditor(FrozenTensors):
    """Moves samples of one class to the mean and covariance of another, by optimal transport."""

    _shapes: ClassVar[dict[str, str]] = {"class_means": "kd", "ot_maps": "kkdd"}

    class_means: Tensor
    """`[k, d]`"""
    ot_maps: Tensor
    """`[k, k, d, d]`, from the first index to the second."""

    def transport(self, x: Tensor, source_z: int, target_z: int) -> Tensor:
        """Move x `[..., d]`, all of class `source_z`, to class `target_z`; see `__call__`."""
        for z in (source_z, target_z):
            _require_class(z, len(self.class_means))
        x = as_numbers(x, self.class_means.dtype)
        delta = as_matrix(x, self.class_means.shape[1], "x").to(self.class_means.dtype) - self.class_means[source_z]
        moved: Tensor = delta @ self.ot_maps[source_z, target_z].mH + self.class_means[target_z]
        return moved.view(x.shape).to(x.dtype)

    def __call__(self, x: Any, source_z: Any, target_z: int) -> Tensor:
        """Move x `[..., d]` of classes `source_z` `[...]` to class `target_z`.

        The result has the dtype of x (the editor's if x holds integers).
        """
        _require_class(target_z, len(self.class_means))
        features = as_numbers(as_tensor(x, "x"), self.class_means.dtype)
        rows = as_matrix(features, self.class_means.shape[1], "x")
        labels = _label_rows(features, source_z, len(self.class_means))
        if torch.compiler.is_compiling():  # see `QuadraticEraser.__call__`
            moved = rows
            for label in range(len(self.class_means)):
                moved = torch.where(labels[:, None] == label, self.transport(rows, label, target_z), moved)
            return moved.view(features.shape)
        if len(rows) == 0:
            return features
        groups = groupby(rows, labels).map(lambda source, group: self.transport(group, source, target_z))
        return groups.coalesce().view(features.shape)


class QuadraticFitter(Fitter[QuadraticEraser]):
    """Streams mean and covariance of each class, for a `QuadraticEraser` or a `QuadraticEditor`.

    Args:
        x_dim: width d of x.
        num_classes: number k of classes, labelled 0 … k − 1.
        device: where the statistics are kept.
        dtype: dtype of the data and of the eraser, at least float32; sums are kept in float64.
        shrinkage: shrink each covariance (`optimal_linear_shrinkage`); needed where a class has fewer than d samples.
        weighted_mean: send all classes to the mean of all samples, which keeps it where it is. Off by default, as in
            `concept_erasure`: to the mean of the class means, though the barycentre is weighted by class.

    Cost: O(nd²) for the statistics; for the eraser about 10 k eigendecompositions of d × d (k² for the editor). Memory
    8kd² bytes (k² of the editor).
    """

    def __init__(
        self,
        x_dim: int,
        num_classes: int,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        shrinkage: bool = True,
        weighted_mean: bool = False,
    ) -> None:
        super().__init__(x_dim, num_classes, device=device, dtype=dtype)
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}, but must be at least 2")
        self.num_classes, self.shrinkage, self.weighted_mean = num_classes, shrinkage, weighted_mean
        self._statistics = [Moments(x_dim, 0, device=device, dtype=dtype) for _ in range(num_classes)]
        self.dtype = self._statistics[0].dtype

    @staticmethod
    def _width(z: Tensor) -> int:
        _require_integers(z)
        return count_classes(z)

    def update(self, x: Any, z: Any, *, weight: Any = None) -> Self:
        """Add a batch: x `[..., d]`, labels z `[...]` or `[..., 1]`, importance weights `[...]`.

        Tensors, numpy arrays, pandas frames and lists are taken.

        Raises:
            ValueError: shapes do not fit, values are not finite, a label is out of range. Nothing is added then.
        """
        x = as_tensor(x, "x")
        rows, labels = as_matrix(x, self.x_dim, "x"), _label_rows(x, z, self.num_classes)
        weights = None if weight is None else weight_rows(x, as_tensor(weight, "weight"))
        # Gathered class by class first, so that nothing is added if a later class turns out to be wrong.
        batch: dict[int, Moments] = {}
        grouped = groupby(rows, labels)
        weight_groups = [None] * len(grouped.labels) if weights is None else groupby(weights, labels).groups
        for (label, group), group_weights in zip(grouped, weight_groups, strict=True):
            batch[label] = Moments(self.x_dim, 0, device=self._device, dtype=self.dtype)
            batch[label].update(group, group[:, :0], group_weights)
        with self._lock:
            for label, moments in batch.items():
                self._statistics[label].merge(moments)
            self._eraser = None
        return self

    def update_single(self, x: Tensor, z: int) -> Self:
        """Add a batch x `[..., d]` that is all of class z."""
        return self.update(x, torch.full(x.shape[:-1], z, dtype=torch.int64, device=x.device))

    @property
    def n(self) -> Tensor:
        """Weight of the samples seen of each class, `[k]`."""
        return torch.stack([moments.weight for moments in self._statistics]).to(self.dtype)

    @property
    def mean_x(self) -> Tensor:
        """`[k, d]`"""
        return self._means().to(self.dtype)

    @property
    def sigma_xx(self) -> Tensor:
        """Covariance of each class, shrunk if asked, `[k, d, d]`."""
        return self._sigmas().to(self.dtype)

    def _solve(self) -> QuadraticEraser:
        sigmas, means = self._sigmas(), self._means()
        prior = torch.stack([moments.weight for moments in self._statistics])
        prior = prior / prior.sum()
        if self.num_classes == 2:
            centre = ot_midpoint(sigmas[0], sigmas[1], float(prior[0]), float(prior[1]))
        else:
            centre = ot_barycenter(sigmas, prior)
        mean = prior.to(means.dtype) @ means if self.weighted_mean else means.mean(0)
        return QuadraticEraser(
            means.to(self.dtype), mean.to(self.dtype), ot_map(sigmas, centre).to(self.dtype).contiguous()
        )

    def editor(self, device: str | torch.device | None = None) -> QuadraticEditor:
        """Return the editor of the statistics so far, on `device` (theirs if None).

        Raises:
            ValueError: a class has fewer than two samples.
        """
        with self._lock:
            sigmas, means = self._sigmas(), self.mean_x
        editor = QuadraticEditor(means, ot_map(sigmas[:, None], sigmas[None]).to(self.dtype))
        return editor if device is None else editor.to(device)

    def _means(self) -> Tensor:
        self._require_all()
        return torch.stack([moments.mean_x for moments in self._statistics])

    def _sigmas(self) -> Tensor:
        self._require_all()
        if self.shrinkage:
            return torch.stack([optimal_linear_shrinkage(m.cov_xx(unbiased=False), m.n_eff) for m in self._statistics])
        return torch.stack([moments.cov_xx() for moments in self._statistics])

    def _require_all(self) -> None:
        few = [label for label, moments in enumerate(self._statistics) if moments.n_eff <= 1]
        if few:
            raise ValueError(f"classes {few} have fewer than two samples: update() with more, or leave them out")

    @property
    def _device(self) -> torch.device:
        return self._statistics[0].weight.device


def _label_rows(x: Tensor, z: Any, k: int) -> Tensor:
    """Return the labels z `[...]` or `[..., 1]` of x `[..., d]` as `[n]` int64.

    Raises:
        ValueError: they have another shape or dtype, or are not in 0 … k − 1.
    """
    labels = as_concept(z)
    _require_integers(labels)
    if labels.shape not in (x.shape[:-1], (*x.shape[:-1], 1)):
        raise ValueError(
            f"z has shape {list(labels.shape)}, but must be {list(x.shape[:-1])}, one label for each sample of "
            f"x {list(x.shape)}"
        )
    require_classes(labels, k)
    return labels.flatten().to(x.device, torch.int64)


def _require_integers(z: Tensor) -> None:
    if not is_integer(z):
        raise ValueError(f"z has dtype {z.dtype}, but must be integer labels [n]")


def _require_class(z: int, k: int) -> None:
    if not 0 <= z < k:
        raise ValueError(f"class {z} is not one of the {k} classes fitted on, 0 … {k - 1}")
