"""The 20-layer residual network for small images."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from efface.models.base import Model


class _Block(nn.Module):
    """Two 3 × 3 convolutions, and a shortcut without parameters (He et al., option A)."""

    def __init__(self, d_in: int, d_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(d_in, d_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(d_out)
        self.conv2 = nn.Conv2d(d_out, d_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(d_out)
        self.stride, self.wider = stride, d_out - d_in

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.wider:
            before = self.wider // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.wider - before))
        return functional.relu(x + y)


def resnet20(*, input_shape: tuple[int, ...], n_classes: int) -> Model:
    """Build ResNet-20, with 64 features.

    He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2. The network of the Fast Model
    Debias paper for CelebA. Made for 32 px; at 224 px it computes 49 times as much.
    """
    if len(input_shape) != 3:
        raise ValueError(f"inputs have shape {input_shape}, but ResNet-20 takes images (channels, height, width)")
    layers: list[nn.Module] = [nn.Conv2d(input_shape[0], 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    d_in = 16
    for d_out in (16, 32, 64):
        for i in range(3):
            layers.append(_Block(d_in, d_out, stride=2 if i == 0 and d_out > 16 else 1))
            d_in = d_out
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return Model(backbone, nn.Linear(64, n_classes)).to(memory_format=torch.channels_last)
