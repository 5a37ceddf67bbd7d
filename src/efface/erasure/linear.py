"""Linear layers made of given numbers."""

from torch import Tensor, nn


def linear_layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Make a frozen linear layer of a weight `[out, in]` and a bias `[out]`, in their dtype and on their device."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype, device=weight.device)
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return layer.requires_grad_(False)
