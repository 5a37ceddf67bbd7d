"""Any network of timm, Ross Wightman's library of image models (github.com/huggingface/pytorch-image-models)."""

import contextlib
import difflib
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from efface.extras import require
from efface.models.base import Model
from efface.models.pretrained import ImageNormalised, Pretrained, load_weights, require_images
from efface.options import options

_HUB_FILE = "model.safetensors"


@options
class Timm(Pretrained):
    """A network of timm without its head, channels last; by default with the weights that the hub has of that name.

    Images are brought to the normalisation with which the network was trained.

    Args:
        architecture: timm's name, such as `resnet18.a1_in1k`; what follows the dot names the weights on the hub.
        revision: a branch, a tag or a commit of the hub, from which the weights are; None for the branch `main`.
    """

    packages: ClassVar[tuple[str, ...]] = ("timm",)

    architecture: str
    revision: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.revision is not None and (self.path is not None or not self.pretrained):
            raise ValueError(f"revision is {self.revision}, but no weights are taken from the hub: leave it out")
        require("timm", extra="vision", what="model=timm")

    def usual_file(self) -> Path:
        """Return the file of the hub, which is fetched once.

        Raises:
            FileNotFoundError: it is neither on this machine nor can the hub be reached.
        """
        from huggingface_hub import hf_hub_download

        repository = self._facts().hf_hub_id
        if repository is None:
            raise FileNotFoundError(f"the hub has no weights of {self.architecture}: name a file, model.path=...")
        try:
            return Path(hf_hub_download(repository, _HUB_FILE, revision=self.revision))
        except Exception as error:  # of many kinds: no network, no such file, no access
            raise FileNotFoundError(
                f"{_HUB_FILE} of {repository} is not on this machine and cannot be fetched "
                f"({str(error).splitlines()[0]}): name a file, model.path=..."
            ) from error

    def __call__(self, *, input_shape: tuple[int, ...], n_classes: int) -> Model:
        import timm

        require_images(input_shape, what="model=timm")
        facts = self._facts()
        if facts.fixed_input_size and tuple(input_shape[1:]) != tuple(facts.input_size[1:]):
            side = facts.input_size[1]
            raise ValueError(
                f"architecture: {self.architecture} takes images of {side} pixels only, but these have "
                f"{input_shape[1]} × {input_shape[2]}: dataset.resolution={side}"
            )
        net: Any = timm.create_model(self.architecture, pretrained=False, num_classes=0)
        if self.pretrained:
            heads = [facts.classifier] if isinstance(facts.classifier, str) else facts.classifier or []
            load_weights(net, self.file(), heads=heads, what=self.architecture)
        backbone = nn.Sequential(ImageNormalised(input_shape[0], mean=facts.mean, std=facts.std), net)
        model = Model(backbone, nn.Linear(net.head_hidden_size, n_classes), pretrained=self.pretrained)
        return model.to(memory_format=torch.channels_last)

    def _facts(self) -> Any:
        """Return what timm knows of the architecture: its inputs, its head, and where its weights are.

        Raises:
            ValueError: timm has no such architecture.
        """
        import timm

        if timm.is_model(self.architecture.partition(".")[0]):
            with contextlib.suppress(RuntimeError):  # of a name of weights that it does not know
                return timm.get_pretrained_cfg(self.architecture)
        close = difflib.get_close_matches(self.architecture, timm.list_models() + timm.list_pretrained(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() has the names"
        raise ValueError(f"architecture is {self.architecture!r}, which timm does not have: {hint}")
