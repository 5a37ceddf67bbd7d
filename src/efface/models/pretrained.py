"""Networks whose weights come from elsewhere: read from a file, and checked against the architecture."""

import pickle
from abc import abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path

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
    except pickle.UnpicklingError as error:  # torch advises to run the code in the file
        raise ValueError(
            f"{option}: {file} holds no weights that can be read: it is no state dict, but perhaps a whole module, "
            "which is not unpickled. Write the weights alone: torch.save(network.state_dict(), ...)"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"{option}: {file} holds no weights that can be read ({str(error).splitlines()[0]})"
        ) from error
    for wrapper in ("state_dict", "model"):
        content = content.get(wrapper, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(
            f"{option}: {file} holds {type(content).__name__}, but must hold tensors by name, a state dict"
        )
    return content


def load_weights(net: nn.Module, file: Path, *, heads: Collection[str] = (), what: str, option: str = "path") -> None:
    """Put the weights of a file into a network.

    Args:
        net: the network without its head.
        file: see `read_weights`.
        heads: names of layers in the file that are not wanted.
        what: the name of the architecture.
        option: which names the file, for messages.

    Raises:
        ValueError: the file's names or shapes are not those of the network; the message names them.
    """
    weights = {
        name: t for name, t in read_weights(file, option).items() if not name.startswith(tuple(f"{h}." for h in heads))
    }
    own = net.state_dict()
    # Of layers that share their weights, files of safetensors hold one.
    there = {own[name].data_ptr() for name in own.keys() & weights.keys()}
    missing = [
        name
        for name, tensor in own.items()
        if name not in weights and not name.endswith(_COUNTERS) and tensor.data_ptr() not in there
    ]
    unexpected = [name for name in weights if name not in own]
    reshaped = [
        f"{name} {list(weights[name].shape)} in place of {list(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    ]
    faults = (("missing", missing), ("unexpected", unexpected), ("of other shapes", sorted(reshaped)))
    if any(names for _, names in faults):
        listed = "; ".join(f"{len(names)} {fault}: {some(names)}" for fault, names in faults if names)
        raise ValueError(f"{file} holds the weights of another network than {what}: {listed}")
    net.load_state_dict(weights, strict=False)
