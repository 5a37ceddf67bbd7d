"""--to safetensors: the weights of a network by the names that it came with, for its own `load_state_dict`."""

from pathlib import Path

from torch import Tensor

from efface.export.whole import ExportError, Whole

FILE = "model.safetensors"


def write(whole: Whole, folder: Path) -> None:
    """Write the weights, and check what a network computes with them.

    Raises:
        ExportError: the map of features stays in front of the head, or the logits are others.
    """
    from safetensors.torch import load_file, save_file

    save_file(apart(folded_state(whole)), folder / FILE, metadata={"format": "pt"})
    whole.require_same(whole.compute(load_file(folder / FILE)), what=FILE)


def folded_state(whole: Whole) -> dict[str, Tensor]:
    """Return the tensors of a network whose architecture is that of the one that came in.

    Raises:
        ExportError: it is another one.
    """
    if whole.state is None:
        raise ExportError(
            "what this method does to the features does not fit in the place of the network's last linear layer, so "
            "that its own class cannot load it. --to torch and --to onnx write the whole"
        )
    return dict(whole.state)


def apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that share no memory: safetensors saves none twice."""
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
