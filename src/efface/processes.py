"""What processes of `torch.distributed` have to agree on before they add anything up."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


def require_same(description: str, group: "ProcessGroup | None", *, remedy: str) -> None:
    """Check that every process of a group gives the same description of what it would add up.

    Where shapes differ, a collective operation hangs, or adds up what does not belong together.

    Args:
        description: as in "cannot add up … of process 1, and … of process 0".
        group: a process group; the default one if None. All of its processes must call this.
        remedy: what to do.

    Raises:
        ValueError: a description differs; on every process, with the same message.
    """
    from torch import distributed

    descriptions = [description] * distributed.get_world_size(group)
    distributed.all_gather_object(descriptions, description, group=group)
    for rank, other in enumerate(descriptions):
        if other != descriptions[0]:
            raise ValueError(f"cannot add up {other} of process {rank}, and {descriptions[0]} of process 0: {remedy}")


def as_real(x: "Tensor") -> "Tensor":
    """View complex numbers as pairs of real ones, which every backend of torch.distributed can send."""
    import torch

    return torch.view_as_real(x) if x.is_complex() else x
