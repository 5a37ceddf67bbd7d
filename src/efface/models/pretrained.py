"""Networks whose weights come from elsewhere: read from a file, and checked against the architecture."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from efface.data.images import CHANNEL_MEAN, CHANNEL_STD, GREY_MEAN, GREY_STD
from efface.data.text import some
from efface.files import file_digest
from efface.models.base import ModelSource
from efface.options import options

_COUNTERS = ".num_batches_tracked"
"""Ends the names of counters that old files of weights lack, and that matter to no output."""


@options
class Pretrained(ModelSource):
    """A network whose weights come from elsewhere.

    Args:
        pretrained: start at weights from elsewhere, instead of random ones.
        path: the file of weights, `.safetensors` or a state dict that `torch.save` wrote; None for the usual ones.
    """

    pretrained: bool = True
    path: str | None = None

    def __post_init__(self) -> None:
        if self.path is not None and not self.pretrained:
            raise ValueError(f"path is {self.path}, but pretrained=false reads no weights: leave one of them out")

    def fingerprint(self) -> str:
        """Return a digest of the weights' file, 64 hex digits; empty if they are random. Cost: one pass over the file.

        Raises:
            FileNotFoundError: the file is not there.
        """
        return file_digest(self.file()) if self.pretrained else ""

    def file(self) -> Path:
        """Return the file of weights.

        Raises:
            FileNotFoundError: it is not there.
        """
        if self.path is None:
            return self.usual_file()
        file = Path(self.path).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"path: there is no file {file.resolve()}; leave model.path out for the usual one")
        return file

    @abstractmethod
    def usual_file(self) -> Path:
        """Return the file of weights that is read where no other is named."""


class ImageNormalised(nn.Module):
    """From the normalisation of `efface.data.images` to that of a network; grey images come out in three channels.

    Args:
        channels: of the inputs, 1 or 3.
        mean, std: of the network, for each of three channels.
        pixels: whether inputs are pixels in 0 … 1, of no normalisation.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, channels: int, *, mean: Sequence[float], std: Sequence[float], pixels: bool = False) -> None:
        super().__init__()
        means, stds = (GREY_MEAN, GREY_STD) if channels == 1 else (CHANNEL_MEAN, CHANNEL_STD)
        if pixels:
            means, stds = (0.0,), (1.0,)
        from_mean, from_std, to_mean, to_std = (torch.tensor(v)[:, None, None] for v in (means, stds, mean, std))
        self.register_buffer("scale", from_std / to_std, persistent=False)
        self.register_buffer("shift", (from_mean - to_mean) / to_std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def require_images(input_shape: tuple[int, ...], *, what: str) -> None:
    """Check that inputs are grey or colour images.

    Raises:
        ValueError: they are not; the message names `what` takes them.
    """
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise ValueError(f"inputs have shape {input_shape}, but {what} takes images (1 or 3, height, width)")


def read_weights(file: Path, option: str = "path") -> dict[str, Tensor]:
    """Read tensors by name from a `.safetensors` file, or from what `torch.save` wrote; never runs code that is in it.

    A state dict may be wrapped in a dictionary under `state_dict` or `model`.

    Args:
        file: of weights.
        option: which names it, for messages.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        content = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except Exception as error:  # of any kind, since the file may hold anything
        # Not torch's own words, which say how to run the code that is in the file.
        reason = "it is damaged, or holds other objects than tensors"
        if isinstance(error, SafetensorError | OSError):
            reason = str(error)
        raise ValueError(
            f"{option}: {file} holds no weights that can be read ({reason}): save model.state_dict()"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise ValueError(
            f"{option}: {file} holds {type(content).__name__}, but must hold tensors by name, a state dict"
        )
    other = [str(name) for name, value in content.items() if not isinstance(name, str) or not _is_plain(value)]
    if other:
        raise ValueError(
            f"{option}: {file} holds something else than plain tensors by name under {some(other)}: save "
            "model.state_dict() alone"
        )
    return content


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def load_weights(net: nn.Module, file: Path, *, heads: Collection[str] = (), what: str, option: str = "path") -> None:
    """Put the weights of a file into a network.

    Args:
        net: the network without its head.
        file: see `read_weights`.
        heads: names of layers in the file that are not wanted.
        what: the name of the architecture.
        option: which names the file, for messages.

    Raises:
        ValueError: the file's names, shapes or kinds of numbers are not those of the network, or layers that share
            weights have several in it; the message names them.
    """
    weights = {
        name: t for name, t in read_weights(file, option).items() if not name.startswith(tuple(f"{h}." for h in heads))
    }
    own = net.state_dict()
    faults = _faults(own, weights)
    if faults:
        listed = "; ".join(f"{len(names)} {fault}: {some(names)}" for fault, names in faults.items())
        raise ValueError(f"{file} holds the weights of another network than {what}: {listed}{_hint(faults)}")
    net.load_state_dict(weights, strict=False)
    unlike = [name for name in own.keys() & weights.keys() if not _holds(own[name], weights[name])]
    if unlike:
        raise ValueError(
            f"{file} holds unlike weights for layers of {what} that share theirs: {some(sorted(unlike))}; make it of a "
            "network that shares them too"
        )


def _faults(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return in which ways weights do not fit a network's own, and the names of those that do not."""
    both = sorted(own.keys() & weights.keys())
    # Of layers that share their weights, files of safetensors hold one.
    there = {own[name].data_ptr() for name in both}
    faults = {
        "missing": [
            name
            for name, tensor in own.items()
            if name not in weights and not name.endswith(_COUNTERS) and tensor.data_ptr() not in there
        ],
        "unexpected": [name for name in weights if name not in own],
        "of other shapes": [
            f"{name} {list(weights[name].shape)} in place of {list(own[name].shape)}"
            for name in both
            if own[name].shape != weights[name].shape
        ],
        "of no real numbers": [
            f"{name} {weights[name].dtype}"
            for name in both
            if own[name].is_floating_point() and not weights[name].is_floating_point()
        ],
    }
    return {fault: names for fault, names in faults.items() if names}


def _hint(faults: Mapping[str, list[str]]) -> str:
    """Say what to do where all names in a file have a prefix that a wrapper around the network has put there."""
    missing, unexpected = faults.get("missing", []), set(faults.get("unexpected", []))
    for prefix in ("module.", "_orig_mod."):
        if missing and unexpected >= {prefix + name for name in missing}:
            return f". Its names begin with {prefix}, which a wrapper adds: save model.{prefix}state_dict()"
    return ""


def _holds(tensor: Tensor, weights: Tensor) -> bool:
    """Tell whether a tensor has the values of some weights, but for their dtype; NaN is equal to NaN."""
    return bool(((tensor == weights.to(tensor)) | (tensor != tensor)).all())
