"""The contract of a model."""

from itertools import pairwise

from torch import Tensor, nn


class Model(nn.Module):
    """`forward(x) == head(backbone(x))`, K >= 2 logits.

    Args:
        backbone: maps inputs `[n, *input_shape]` to features `[n, d]`.
        head: maps features to logits `[n, K]`.
        pretrained: whether the backbone has weights from elsewhere, and is of use before it is trained here.
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear, *, pretrained: bool = False) -> None:
        super().__init__()
        if head.out_features < 2:
            raise ValueError(f"head has {head.out_features} output, but needs a logit for each of two or more classes")
        self.backbone = backbone
        self.head = head
        self.pretrained = pretrained

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(x))
        return logits

    def cut(self, m: int) -> tuple[nn.Module, nn.Sequential]:
        """Split the model before its last m linear layers; return both parts, the second with its activations.

        Raises:
            ValueError: the model does not end in m linear layers with one ReLU between each two.
        """
        if m == 1:
            return self.backbone, nn.Sequential(self.head)
        parts = [*(self.backbone if isinstance(self.backbone, nn.Sequential) else [self.backbone]), self.head]
        first = len(parts) - (2 * m - 1)
        tail = parts[max(first, 0) :]
        alternate = all(isinstance(a, nn.Linear) != isinstance(b, nn.Linear) for a, b in pairwise(tail))
        if m < 1 or first < 0 or not alternate or not all(isinstance(part, nn.Linear | nn.ReLU) for part in tail):
            raise ValueError(f"m is {m}, but the model does not end in {m} linear layers with a ReLU between each two")
        return nn.Sequential(*parts[:first]), nn.Sequential(*tail)
