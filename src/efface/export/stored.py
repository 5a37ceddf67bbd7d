"""Inputs that are stored with a model, and the logits that every copy of it has to give."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from efface import tensorfiles
from efface.debiased import Debiased

INPUTS_FILE, KIND, ATTRIBUTE = "inputs.safetensors", "stored inputs", "attribute"
"""The file, what it says that it holds, and the name of the input that is the protected attribute."""
_OF_LOGITS, _OF_TERMS = 1e-5, 2**-22

Inputs = Mapping[str, Tensor]
Compute = Callable[[Inputs], Tensor]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Some rows, and what the debiased model makes of them."""

    inputs: Inputs
    """As the network takes them, by name; the protected attribute last, where it needs that."""
    logits: Tensor
    """Of the network."""
    features: Tensor | None
    """What reaches the map of features and the head that the method made; None if they were not stored."""
    tolerance: float
    """Greatest difference of logits that counts as rounding, as a share of the largest of these, or of 1."""

    @property
    def bound(self) -> float:
        """Greatest difference of logits that counts as rounding."""
        return self.tolerance * size(self.logits)

    def write(self, folder: Path) -> None:
        """Write all of it."""
        tensors = {f"input.{name}": x for name, x in self.inputs.items()} | {"logits": self.logits}
        if self.features is not None:
            tensors["features"] = self.features
        facts = {"inputs": list(self.inputs), "tolerance": self.tolerance}
        tensorfiles.write(folder / INPUTS_FILE, tensors, kind=KIND, facts=facts)

    @classmethod
    def read(cls, folder: Path) -> "Stored":
        """Read what `write` wrote.

        Raises:
            ValueError: the file is damaged.
        """
        tensors, facts = tensorfiles.read(folder / INPUTS_FILE, kind=KIND)
        return cls(
            inputs={name: tensors[f"input.{name}"] for name in facts["inputs"]},
            logits=tensors["logits"],
            features=tensors.get("features"),
            tolerance=float(facts["tolerance"]),
        )


@torch.no_grad()
def reference(debiased: Debiased, features: Tensor, a: Tensor | None) -> tuple[Tensor, float]:
    """Return the logits `[n, K]` of what a method made of features, in float64, and their tolerance.

    A network in float32 gives other ones: a sum of terms that cancel, as in a head that was fitted anew, has the
    rounding errors of its terms. So a difference counts as rounding up to 1e-5 of the largest logit, or up to what
    follows from features that are off by two units in the last place, whichever is more: that is 1e-5 unless the sizes
    of a logit's terms sum to more than 40 times the largest logit.
    """
    debiased = copy.deepcopy(debiased)
    represent, head = debiased.represent.cpu().double(), debiased.head.cpu().double()
    wide = features.double()
    represented = represent(wide, a)
    logits = debiased.logits(represented, wide, a)
    sizes = represented.abs() + (wide.abs() if wide.shape == represented.shape else 0)
    terms = sizes @ head.weight.abs().T
    return logits, max(_OF_LOGITS, _OF_TERMS * float(terms.max()) / size(logits))


def size(logits: Tensor) -> float:
    """Return the size of the largest logit, or 1."""
    return max(1.0, float(logits.abs().max()))


def like(logits: Tensor, other: Tensor) -> Tensor | None:
    """Return logits `[n, K]` in the form that a network has given them: their difference where that is one logit.

    None if they are of another number.
    """
    columns = other[:, None] if other.ndim == 1 else other
    if columns.shape != logits.shape and logits.shape[1] == 2:
        logits = logits.diff(dim=1)
    return logits.view(other.shape) if columns.shape == logits.shape else None


def two_logits(logits: Tensor) -> Tensor:
    """Return logits `[n, K]`, K ≥ 2, of those that a network gives: one, `[n]` or `[n, 1]`, is that of a sigmoid."""
    columns = logits[:, None] if logits.ndim == 1 else logits
    return torch.cat([torch.zeros_like(columns), columns], 1) if columns.shape[1] == 1 else columns
