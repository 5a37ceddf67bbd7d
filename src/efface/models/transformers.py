"""Classifiers of images and of texts that `transformers` can load, from a folder or the hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from efface.data.text import some
from efface.extras import require
from efface.hub import folder_digest, hub_commit, read_pretrained
from efface.models.arguments import Arguments
from efface.models.base import Model
from efface.models.classifier import Classifier, random_inputs
from efface.models.pretrained import require_images
from efface.options import options

_IMAGES, _TEXTS = "ForImageClassification", "ForSequenceClassification"
"""What the names of classes end with that have a head of the kind."""


@options
class Transformers(Classifier):
    """A classifier of images or of texts with its head; output i is class i.

    A split hands out one float32 tensor. For images that is `pixel_values`; for texts token ids and their mask, stacked
    to `[n, 2, t]`, which float32 holds exactly: see `efface.models.arguments.Arguments`.

    Args:
        path: a folder as `save_pretrained` writes it, or the name of a model on the hub. Its own code is never run.
        revision: a branch, a tag or a commit of the hub; None for the branch `main`.
        mean, std: see `Classifier`; None for those in the model's `preprocessor_config.json`, if it has one.
    """

    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    path: str
    revision: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require("transformers", extra="scrub", what="model=transformers")
        if self._folder is not None and self.revision is not None:
            raise ValueError(f"revision is {self.revision}, but {self.path} is a folder, which has none: leave it out")

    @property
    def _folder(self) -> Path | None:
        folder = Path(self.path).expanduser()
        return folder if folder.is_dir() else None

    def fingerprint(self) -> str:
        """Return a digest of the folder, or the commit on the hub."""
        return hub_commit(self.path, self.revision) if self._folder is None else folder_digest(self._folder)

    def outputs(self) -> tuple[str, ...] | None:
        import transformers

        names = self._read(transformers.AutoConfig, self._where()).id2label or {}
        return tuple(str(names[number]) for number in sorted(names)) or None

    def _where(self) -> dict[str, Any]:
        """Return what `from_pretrained` is called with."""
        where: dict[str, Any] = {"pretrained_model_name_or_path": self._folder or self.path, "trust_remote_code": False}
        if self._folder is None:
            where["revision"] = self.fingerprint()  # that commit, and no later one that the hub may have by now
        return where

    def __call__(self, *, input_shape: tuple[int, ...], n_classes: int) -> Model:
        import transformers

        where = self._where()
        config = self._read(transformers.AutoConfig, where)
        if config.problem_type in ("regression", "multi_label_classification"):
            raise ValueError(
                f"path: {self.path} is a model of the problem type {config.problem_type}: give a classifier that has "
                "one class for each sample"
            )
        architecture = next(iter(config.architectures or ()), "no architecture")
        if architecture.endswith(_IMAGES):
            prepare, example = self._images(input_shape, where)
            network = self._whole(transformers.AutoModelForImageClassification, where)
        elif architecture.endswith(_TEXTS):
            prepare, example = self._texts(input_shape, config)
            network = self._whole(transformers.AutoModelForSequenceClassification, where)
        else:
            raise ValueError(f"path: {self.path} holds {architecture}, but must hold one …{_IMAGES} or …{_TEXTS}")
        return self.model(network, prepare, n_classes, example=example)

    def _read(self, auto: Any, where: dict[str, Any], **options: Any) -> Any:
        return read_pretrained(auto, where, option="path", advice="the folder of a classifier", **options)

    def _whole(self, auto: Any, where: dict[str, Any]) -> nn.Module:
        """Read the network; ValueError if it lacks weights, which `transformers` would draw at random."""
        network, report = self._read(auto, where, output_loading_info=True)
        missing = sorted(report["missing_keys"])
        if missing:
            raise ValueError(f"path: {self.path} lacks the weights {some(missing)}: give a model with a trained head")
        return network  # type: ignore[no-any-return]

    def _images(self, input_shape: tuple[int, ...], where: dict[str, Any]) -> tuple[nn.Module, Tensor]:
        """Return what makes arguments of images, and some images."""
        require_images(input_shape, what=f"{self.path}, a classifier of images,")
        mean, std = (self.mean, self.std) if self.mean is not None else _normalisation(where)
        arguments = Arguments(["pixel_values"], stacked=False)
        return nn.Sequential(self.normalised(input_shape, mean, std), arguments), random_inputs(input_shape)

    def _texts(self, input_shape: tuple[int, ...], config: Any) -> tuple[nn.Module, Tensor]:
        """Return what makes arguments of token ids and masks, and some of those."""
        arguments = Arguments(["input_ids", "attention_mask"], stacked=True, n_tokens=config.vocab_size)
        if len(input_shape) != 2 or input_shape[0] != len(arguments.names):
            raise ValueError(
                f"inputs have shape {input_shape}, but {self.path}, a classifier of texts, takes token ids and masks "
                "(2, tokens)"
            )
        ids = torch.randint(config.vocab_size, (8, input_shape[1]), generator=torch.Generator().manual_seed(0))
        return arguments, torch.stack([ids, torch.ones_like(ids)], 1)


def _normalisation(where: dict[str, Any]) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Return mean and standard deviation of the images that a model was trained on; None if no file says so."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        facts, _ = ImageProcessingMixin.get_image_processor_dict(**where)
    except OSError:
        return None, None
    return (facts.get("image_mean"), facts.get("image_std")) if facts.get("do_normalize", True) else (None, None)
