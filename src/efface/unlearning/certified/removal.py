"""Certified removal of training samples from a linear classifier.

The classifier minimises, over the weights θ of rows x̃ = (x, 1)/√2 with ‖x‖ <= 1,

    L(θ; D) = Σ_{i in D} (ℓ(θ; x̃_i, y_i) + λ/2 ‖θ‖²),

so that the intercept is penalised too. To remove samples is to minimise L on the remaining data D′ to the same fixed
gradient norm r as training does. L is λ n-strongly convex, n = |D′|: the result is at most r / (λ n) from the exact
minimum on D′, and 2r / (λ n) from any other model that was minimised to r, such as one that never saw the samples.
Released weights carry noise that hides this distance: see `RemovalCertificate`.

The definition of certified removal, and the objective, are those of Guo et al., "Certified data removal from machine
learning models", ICML 2020, arXiv 1911.03030. The noise is calibrated as Balle & Wang, ICML 2018, theorem 8, do. The
procedure of Guo et al., which perturbs the objective beforehand, is `published.PublishedRemoval`.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from efface import tensorfiles
from efface.unlearning.certified.mechanism import gaussian
from efface.unlearning.certified.objective import Link, LossPoint, kept_factor, minimise
from efface.unlearning.certified.regression import Regression, require_positive
from efface.unlearning.certified.release import CertifiedRelease, RemovalCertificate, require_weights
from efface.unlearning.certified.rows import Rows, require_samples

_OPTIONS = ("lam", "epsilon", "delta", "residual", "loss", "max_norm")


@dataclass(frozen=True)
class Removal:
    """What one call of `remove` did. Its steps depend on what was removed: they are for the owner of the data."""

    removed: int
    newton_steps: int
    cg_steps: int


@dataclass
class _State:
    """What `CertifiedLogisticRegression` knows once it is fitted."""

    data: Rows
    theta: Tensor
    n_classes: int
    has_removed: bool = False
    releases: int = 0
    """Since the first removal; before it, since training."""


class CertifiedLogisticRegression:
    """A linear classifier that can forget training samples, with an (ε, δ) certificate for what it releases.

    Args:
        lam: λ > 0, the penalty per sample.
        epsilon, delta: ε > 0 and δ in (0, 1) of one release.
        residual: the gradient norm, of the sum over samples, that training and every removal reach. The noise is
            proportional to it: 2 residual / (λ n · allowed_shift(ε, δ)) on every weight, 7e-7 for λ = 1e-3, n = 10,000,
            ε = 1, δ = 1e-5.
        loss: `logistic` for two classes, or one against the rest; `softmax`.
        max_norm: rows are divided by the larger of their length and this, so that ‖x‖ <= 1. 0 scales every row to
            length 1, as published. A number keeps relative lengths below it; choose it without a look at the data, or
            the scale of the rest remembers the sample that was the longest.
        generator: a seeded generator for the noise, for experiments that can be repeated: the noise is then as secret
            as the seed. None: the operating system's entropy.

    `fit`, `remove` any number of times, and `release`. A removal is never refused, and its path needs no secrecy.

    What the certificate says: of every sample that was removed, the release tells (ε, δ)-nothing that a model trained
    without it would not tell.

    What it does not say:

    * Requests have to be fixed without a look at the model: whoever chooses what to remove by the weights, or by what
      was released before, puts something of the removed samples into the choice.
    * It is for each release. Who keeps k releases after a removal has δ = `certificate.delta_of(k)` at ε, and a release
      from before a removal holds the sample, as it should.
    * It is for `release()`, not for `exact_theta`, `gradient_norm()` and `save`, which are the owner's, nor for what a
      `Removal` reports or how long it takes.
    * Inputs have to be computed from each sample alone. Columns that were standardised, or an extractor that was
      trained, with the removed samples remember them.
    * Rounding in float64, of weights, gradients and noise, is not accounted for.

    Safe under threads: one call at a time works on the model, and the others wait.

    Cost of a removal: 4npk operations for each of some 5 to 20 steps of conjugate gradients, whatever the number of
    samples removed; now and then np² + p³ for a new preconditioner. p = d + 1; k is 1 for two logistic classes, else K.
    Memory: n(p + 3k) + 2p² values of float64. A removed row is overwritten with zeros. A release costs pk draws.
    """

    def __init__(
        self,
        lam: float,
        epsilon: float,
        delta: float,
        *,
        residual: float = 1e-6,
        loss: Link = "logistic",
        max_norm: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        require_positive(residual=residual)
        self._regression = Regression(lam=lam, loss=loss, max_norm=max_norm, tol=residual)
        self.lam, self.epsilon, self.delta, self.residual = lam, epsilon, delta, residual
        self.loss: Link = loss
        self.max_norm = max_norm
        self._certificate(n=1, releases=1)  # it checks ε and δ
        self._generator = generator
        self._lock = threading.RLock()
        self._fitted: _State | None = None
        self._factor = kept_factor(1, 1)

    def fit(self, x: Tensor, y: Tensor, *, n_classes: int | None = None) -> Self:
        """Train from scratch.

        Args:
            x: `[n, d]`; copied to float64.
            y: labels `[n]` in 0 … K − 1.
            n_classes: K; the largest label plus one if None, at least 2. Say it where removed samples may be the only
                ones of a class, or the number of outputs tells of them.

        Raises:
            ValueError: shapes do not fit, x is not finite, a label is out of range.
            ArithmeticError: `residual` cannot be reached in float64.
        """
        with self._lock, torch.no_grad():
            data, k = self._regression.rows(x, y, n_classes)
            trained = self._regression.train(data, data.n, k)
            self._fitted, self._factor = _State(data, trained.theta, k), kept_factor(*trained.theta.shape)
        return self

    def remove(self, indices: Sequence[int] | Tensor) -> Removal:
        """Forget training samples; a batch costs about as much as a single one.

        Args:
            indices: their numbers, as they were counted in `fit`.

        Raises:
            IndexError: a number is out of range.
            ValueError: a number occurs twice, or has been removed before, or nobody would be left.
            ArithmeticError: `residual` cannot be reached in float64.

        After an error the model is as it was.
        """
        with self._lock, torch.no_grad():
            state = self._state
            slots = state.data.slots(indices)
            if len(slots) == 0:
                return Removal(0, 0, 0)
            n = state.data.park(slots)
            theta, newton_steps, cg_steps = self._refined(state, n)
            state.theta = theta
            state.data.forget(n)
            if not state.has_removed:
                state.has_removed, state.releases = True, 0
            return Removal(len(slots), newton_steps, cg_steps)

    def release(self) -> CertifiedRelease:
        """Return the weights under fresh noise, with their certificate: this may be published."""
        with self._lock, torch.no_grad():
            state = self._state
            certificate = self._certificate(n=state.data.n, releases=state.releases + 1)
            noise = gaussian(tuple(state.theta.shape), self._generator).to(state.theta)
            state.releases += 1
            return CertifiedRelease(
                theta=state.theta + certificate.noise * noise,
                n_classes=state.n_classes,
                loss=self.loss,
                max_norm=self.max_norm,
                certificate=certificate,
            )

    @property
    def exact_theta(self) -> Tensor:
        """θ `[p, k]` without noise: for the owner of the data alone. `release()` is what may be published."""
        with self._lock:
            return self._state.theta.clone()

    @property
    def remaining(self) -> Tensor:
        """Numbers of the training samples that have not been removed, as they were counted in `fit`; sorted."""
        with self._lock:
            data = self._state.data
            return data.ids[: data.n].sort().values

    def gradient_norm(self) -> float:
        """Measure ‖∇L(θ)‖ anew on the remaining data, at most `residual`. For the owner alone. 4npk operations."""
        with self._lock, torch.no_grad():
            return float(self._point(self._state, self._state.data.n).gradient.norm())

    def save(self, path: str | Path) -> None:
        """Write the owner's file, atomically: exact weights, options, numbers and a digest of the remaining samples.

        It is not to be published, and holds no samples. What may be published is `release().save(path)`.

        Raises:
            OSError: the disk is full or read-only.
        """
        with self._lock:
            state = self._state
            facts = {
                "options": {name: getattr(self, name) for name in _OPTIONS},
                "n_classes": state.n_classes,
                "total": state.data.total,
                "has_removed": state.has_removed,
                "releases": state.releases,
                "digest": state.data.digest,
            }
            tensors = {"exact_theta": state.theta, "remaining": self.remaining}
            tensorfiles.write(path, tensors, kind=CertifiedLogisticRegression.__name__, facts=facts)

    @classmethod
    def load(cls, path: str | Path, x: Tensor, y: Tensor, *, generator: torch.Generator | None = None) -> Self:
        """Read what `save` wrote, and go on.

        The gradient at the saved weights is measured on the samples. If it is above `residual`, as another machine's
        rounding may make it, the weights are refined: the certificate holds wherever they came from.

        Args:
            path: the file.
            x, y: the training samples that are left, `[n, d]` and `[n]`, in the order of `remaining`.
            generator: see the class.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or holds something else, or x and y are other samples.
            ArithmeticError: `residual` cannot be reached in float64.
        """
        tensors, facts = tensorfiles.read(path, kind=CertifiedLogisticRegression.__name__, device=x.device)
        y = require_samples(x, y)
        try:
            model = cls(**facts["options"], generator=generator)
            theta, ids, n_classes = tensors["exact_theta"], tensors["remaining"], facts["n_classes"]
            require_weights(theta, model.loss, n_classes)
            _require_numbers(ids, facts["total"])
            counted = facts["releases"], facts["has_removed"]
            if not (isinstance(counted[0], int) and counted[0] >= 0 and isinstance(counted[1], bool)):
                raise ValueError(f"releases is {counted[0]!r}, but must be an integer >= 0")
            digest = facts["digest"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a whole saved model ({error}): save it again") from error
        if len(y) != len(ids) or x.shape[1] != len(theta) - 1:
            raise ValueError(
                f"x is {list(x.shape)}, but {path} has {len(ids)} samples of {len(theta) - 1} columns left: give those "
                "of `remaining`"
            )
        data = Rows(x, y, ids=ids, total=facts["total"], max_norm=model.max_norm)
        if data.digest != digest:
            raise ValueError(f"x and y are not the samples that {path} has left: give those of `remaining`, in order")
        model._factor = kept_factor(*theta.shape)
        model._fitted = _State(data, theta, n_classes, has_removed=counted[1], releases=counted[0])
        with torch.no_grad():
            model._fitted.theta, _, _ = model._refined(model._fitted, data.n)
        return model

    def _refined(self, state: _State, n: int) -> tuple[Tensor, int, int]:
        """Minimise on the first n rows from the present θ; return the new one, Newton steps and products taken."""
        point, minimum, products = minimise(self._point(state, n), self._factor, tol=self.residual)
        self._regression.require_reached(minimum.grad_norm)
        return point.theta, minimum.iterations, products

    def _point(self, state: _State, n: int) -> LossPoint:
        """Return L on the first n rows at the present θ."""
        return LossPoint(self._regression.objective(state.data, n, state.theta.shape[1]), state.theta)

    def _certificate(self, *, n: int, releases: int) -> RemovalCertificate:
        return RemovalCertificate(
            epsilon=self.epsilon, delta=self.delta, lam=self.lam, residual=self.residual, n=n, releases=releases
        )

    @property
    def _state(self) -> _State:
        if self._fitted is None:
            raise RuntimeError("the model has not been fitted: call fit(x, y) first")
        return self._fitted


def _require_numbers(ids: Tensor, total: int) -> None:
    """Check the numbers of the remaining samples that were read from a file.

    Raises:
        ValueError: they are not different integers in 0 … total − 1, or there are none.
    """
    if ids.ndim != 1 or ids.dtype != torch.int64 or len(ids) == 0:
        raise ValueError(f"remaining is {list(ids.shape)}, {ids.dtype}, but must be [n], int64, n > 0")
    if int(ids.min()) < 0 or int(ids.max()) >= total or len(ids.unique()) < len(ids):
        raise ValueError(f"remaining is not different numbers in 0 … {total - 1}")
