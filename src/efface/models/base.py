"""The one shape that every model has."""

from torch import Tensor, nn


class Model(nn.Module):
    """`forward(x) == head(backbone(x))`, K >= 2 logits.

    Args:
        backbone: maps inputs `[n, *input_shape]` to features `[n, d]`.
        head: maps features to logits `[n, K]`.
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        if head.out_features < 2:
            raise ValueError(f"head has {head.out_features} output, but needs a logit for each of two or more classes")
        self.backbone = backbone
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(x))
        return logits
