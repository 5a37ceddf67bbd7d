"""What may be published after a removal: weights with noise, and the certificate that says what the noise hides."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from efface import tensorfiles
from efface.moments import require_finite
from efface.unlearning.certified.mechanism import allowed_shift, gaussian_delta
from efface.unlearning.certified.regression import LinearModel, require_positive

_CERTIFICATE = ("epsilon", "delta", "lam", "residual", "n", "releases")


@dataclass(frozen=True, kw_only=True)
class RemovalCertificate:
    """What a release promises of every removed sample.

    Both the model that forgot the sample and one that never saw it are minimised to a gradient norm of `residual`, on
    the same n samples. The objective is λ n-strongly convex, so their weights are at most 2 `residual` / (λ n) apart,
    whatever path led to them. Noise N(0, `noise`² I) on the weights then makes the two releases
    (ε, δ)-indistinguishable: for every set S of weights, P(release in S) <= e^ε P(other release in S) + δ, both ways.
    """

    epsilon: float
    """ε > 0 of one release."""
    delta: float
    """δ in (0, 1) of one release."""
    lam: float
    """λ, the penalty per sample."""
    residual: float
    """The gradient norm that both are minimised to."""
    n: int
    """Samples that are left."""
    releases: int
    """How many releases have been made since the first removal, this one included (before it, since training)."""
    noise: float = field(init=False)
    """Standard deviation of the noise on every weight: 2 residual / (λ n · allowed_shift(ε, δ))."""
    joint_delta: float = field(init=False)
    """δ at ε of all those releases together, for a sample that was removed first."""

    def __post_init__(self) -> None:
        require_positive(lam=self.lam, residual=self.residual)
        for name, value in {"n": self.n, "releases": self.releases}.items():
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be >= 1")
        noise = 2 * self.residual / (self.lam * self.n * allowed_shift(self.epsilon, self.delta))
        if not 0 < noise < math.inf:
            raise ValueError(f"noise is {noise}, but must be positive and finite: residual or lam is out of all range")
        object.__setattr__(self, "noise", noise)
        object.__setattr__(self, "joint_delta", self.delta_of(self.releases))

    def delta_of(self, releases: int) -> float:
        """Return the δ at ε of so many releases after a removal, each with noise of its own.

        Together they are Gaussians whose means are sqrt(releases) times as many standard deviations apart as those of
        one: δ is exact for these, and not a bound by summation. Further removals between the releases change nothing.
        """
        return gaussian_delta(math.sqrt(releases) * allowed_shift(self.epsilon, self.delta), self.epsilon)


@dataclass(frozen=True, kw_only=True)
class CertifiedRelease(LinearModel):
    """Weights that may be published, with noise that was drawn for this release alone, and their certificate.

    What is computed from them, such as `head()` and predictions, is covered too.
    """

    certificate: RemovalCertificate

    def save(self, path: str | Path) -> None:
        """Write weights and certificate to a safetensors file, atomically. It tells nothing that the release does not.

        Raises:
            OSError: the disk is full or read-only.
        """
        facts = {
            "certificate": {name: getattr(self.certificate, name) for name in _CERTIFICATE},
            "n_classes": self.n_classes,
            "loss": self.loss,
            "max_norm": self.max_norm,
        }
        tensorfiles.write(path, {"theta": self.theta}, kind=CertifiedRelease.__name__, facts=facts)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or holds something else.
        """
        tensors, facts = tensorfiles.read(path, kind=CertifiedRelease.__name__, device=device)
        try:
            theta = tensors["theta"]
            release = cls(
                theta=theta,
                n_classes=facts["n_classes"],
                loss=facts["loss"],
                max_norm=facts["max_norm"],
                certificate=RemovalCertificate(**facts["certificate"]),
            )
            require_weights(theta, release.loss, release.n_classes)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a whole release ({error}): save it again") from error
        return release


def require_weights(theta: torch.Tensor, loss: Any, n_classes: Any) -> None:
    """Check weights that were read from a file.

    Raises:
        ValueError: shape or dtype does not fit, or a value is not finite.
    """
    if loss not in ("logistic", "softmax") or not isinstance(n_classes, int) or n_classes < 2:
        raise ValueError(f"loss is {loss!r} and n_classes {n_classes!r}, but must be a known loss and an integer >= 2")
    k = 1 if loss == "logistic" and n_classes == 2 else n_classes
    if theta.ndim != 2 or theta.shape[1] != k or len(theta) < 2 or theta.dtype != torch.float64:
        raise ValueError(f"theta is {list(theta.shape)}, {theta.dtype}, but must be [d + 1, {k}], float64")
    require_finite(theta, "theta")
