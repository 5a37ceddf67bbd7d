"""What a method returns: a map of the features and the head on it, to be used, saved and loaded."""

import copy
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efface import tensorfiles
from efface.decisions import Drawn
from efface.erasure.linear import linear_layer
from efface.files import file_digest
from efface.problem import Features
from efface.representations import KINDS, Representation

MODEL_FILE = "debiased.safetensors"
_KIND = "debiased model"


class RepresentedHead(nn.Module):
    """A linear layer behind a map of its inputs, and what decides by chance from its logits, if anything does."""

    def __init__(self, represent: Representation, head: nn.Linear, decide: Drawn | None = None) -> None:
        super().__init__()
        self.represent, self.head, self.decide = represent, head, decide

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(self.represent(x, a))
        return logits if self.decide is None else self.decide(logits, x, a)


@dataclass(frozen=True)
class Debiased:
    """A debiased model on top of the features: logits are `head(represent(x, a))`, probes read `represent(x, a)`.

    Where a method decides by chance, its `decide` makes the logits of those of the head.
    """

    represent: Representation
    head: nn.Linear
    cut: int = 1
    """The features are those before the last `cut` linear layers of the base model; see `Problem.cut`."""
    fitted_on: Features | None = None
    """Features and sample weights used for fitting; None if the method was not fitted."""
    info: dict[str, Any] = field(default_factory=dict)
    """JSON-able facts for the record."""
    arrays: dict[str, Tensor] = field(default_factory=dict)
    """What is too large for the record."""
    decide: Drawn | None = None
    """What becomes of the head's logits; None if they are the model's own."""

    @property
    def uses_attribute(self) -> bool:
        """Whether the model needs the attribute of a sample."""
        return self.represent.uses_attribute or (self.decide is not None and self.decide.uses_attribute)

    @torch.no_grad()
    def __call__(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        """Return logits `[n, K]` of features x `[n, d]`."""
        return self.logits(self.represent(x, a), x, a)

    def logits(self, represented: Tensor, x: Tensor, a: Tensor | None = None) -> Tensor:
        """Return logits `[n, K]` of features x `[n, d]` that `represent` has mapped already."""
        logits: Tensor = self.head(represented)
        return logits if self.decide is None else self.decide(logits, x, a)

    def module(self) -> RepresentedHead:
        """Return a copy as a module from features `[n, d]` to logits `[n, K]`, through which gradients pass to them.

        It can be moved, compiled and exported with the rest of a network, as `nn.Sequential(body, debiased.module())`.
        Where the method uses the attribute at test time, the module is called with it too: `module(x, a)`.
        """
        return RepresentedHead(*copy.deepcopy((self.represent, self.head, self.decide))).eval()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all but `fitted_on`, `info` and `arrays` to one safetensors file.

        Raises:
            ValueError: the representation is of no kind that could be loaded again.
        """
        if KINDS.get(self.represent.kind) is not type(self.represent):
            raise ValueError(
                f"represent is a {type(self.represent).__name__} of kind {self.represent.kind!r}, which no saved model "
                "can name: give the class a kind of its own, and add it to efface.representations.KINDS"
            )
        tensors = {f"represent.{name}": t for name, t in self.represent.state_dict().items()}
        tensors |= {f"head.{name}": t for name, t in self.head.state_dict().items()}
        facts: dict[str, Any] = {"represent": self.represent.kind, "cut": self.cut}
        if self.decide is not None:
            tensors |= {f"decide.{name}": t for name, t in self.decide.state_dict().items()}
            facts["decide"] = self.decide.kind
        tensorfiles.write(path, tensors, kind=_KIND, facts=facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Debiased":
        """Read what `save` wrote. The file names a kind of representation; nothing is unpickled or imported by name.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, holds something else, or a kind that this version does not know.
        """
        tensors, facts = tensorfiles.read(path, kind=_KIND)
        kind = facts.get("represent")
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(
                f"{path} holds a representation of kind {kind!r}, but this version of efface knows "
                f"{', '.join(KINDS)}: load it with the version that wrote it"
            )
        try:
            parts = {name: _part(tensors, name) for name in ("represent", "head", "decide")}
            represent = KINDS[kind](**parts["represent"])
            head = linear_layer(parts["head"].pop("weight"), parts["head"].pop("bias", None))
            unknown = sorted(name for name in tensors if name.partition(".")[0] not in parts) + sorted(parts["head"])
            if unknown or facts.get("decide", Drawn.kind) != Drawn.kind or not _is_cut(facts["cut"]):
                raise ValueError(f"it holds {unknown}, decide={facts.get('decide')!r} and cut={facts['cut']!r}")
            decide = Drawn(**parts["decide"]) if "decide" in facts else None
            return cls(represent=represent.eval(), head=head, cut=facts["cut"], decide=decide)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} lacks a part of a saved {_KIND} ({error}): make and save it again") from error


def load(run_dir: str | os.PathLike[str]) -> Debiased:
    """Load the debiased model of a finished run.

    Raises:
        FileNotFoundError: `run_dir` holds no finished run.
        ValueError: the method did not apply, the run is of a language model, or a file is damaged, or not the one that
            the record names.
    """
    directory = Path(run_dir)
    record = directory / "record.json"
    if not record.is_file():
        raise FileNotFoundError(f"run_dir: {directory} holds no finished run: it has no {record.name}")
    try:
        content = json.loads(record.read_text())
        status, reason, artifacts = content["status"], content.get("reason"), content.get("artifacts") or {}
        if not isinstance(artifacts, dict | list):
            raise TypeError(f"artifacts is {artifacts!r}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{record} is damaged ({error}): run its job again with overwrite=true") from error
    if status != "done":
        raise ValueError(f"run_dir: {directory} holds no model: its run is {status} ({reason})")
    if "scrubber.safetensors" in artifacts:
        raise ValueError(
            f"run_dir: {directory} holds the erasers of a language model: "
            "efface.scrubbing.ConceptScrubber.load(run_dir / 'scrubber.safetensors') reads them"
        )
    path = directory / MODEL_FILE
    digest = artifacts.get(MODEL_FILE) if isinstance(artifacts, dict) else None  # version 1 has no digests
    if digest is not None and path.is_file() and file_digest(path) != digest:
        raise ValueError(f"{path} is not the model of {record}: it was exchanged since; run its job again")
    return Debiased.load(path)


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors of one part of a model, by the names that they have there."""
    return {key.partition(".")[2]: t for key, t in tensors.items() if key.partition(".")[0] == name}


def _is_cut(cut: object) -> bool:
    return isinstance(cut, int) and cut >= 1
