"""torchvision's residual networks."""

import urllib.error
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from efface.models.base import Model
from efface.options import checked


@checked
def resnet(
    *,
    input_shape: tuple[int, ...],
    n_classes: int,
    depth: Literal[18, 50] = 18,
    pretrained: bool = False,
    weights: str = "IMAGENET1K_V1",
) -> Model:
    """Build ResNet-18 (512 features) or ResNet-50 (2,048 features), channels last.

    He et al., "Deep residual learning for image recognition", CVPR 2016.

    Args:
        input_shape: (3, height, width), or (1, height, width) for grey images.
        n_classes: logits of the head, which is new and random.
        depth: number of layers.
        pretrained: start at weights trained on ImageNet, instead of random ones. torchvision fetches them once.
        weights: which, by torchvision's name: `IMAGENET1K_V1`, and `IMAGENET1K_V2` for depth 50.

    Raises:
        ValueError: an option is wrong, or the inputs are not images.
        FileNotFoundError: the weights can neither be found nor fetched.
    """
    from torchvision import models

    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise ValueError(f"inputs have shape {input_shape}, but a ResNet takes images (1 or 3, height, width)")
    net = models.resnet18() if depth == 18 else models.resnet50()
    if pretrained:
        net.load_state_dict(_fetch(models.ResNet18_Weights if depth == 18 else models.ResNet50_Weights, weights))
    if input_shape[0] == 1:
        # On three equal channels, the same as the network of colour images.
        first = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        first.weight.data = net.conv1.weight.data.sum(1, keepdim=True)
        net.conv1 = first
    head = nn.Linear(net.fc.in_features, n_classes)
    net.fc = nn.Identity()
    return Model(net, head, pretrained=pretrained).to(memory_format=torch.channels_last)


def _fetch(kind: Any, name: str) -> dict[str, Any]:
    """Read torchvision's weights from its own folder, or download them to it."""
    if name not in kind.__members__:
        raise ValueError(f"weights is {name!r}, but must be one of {', '.join(kind.__members__)}")
    choice = kind[name]
    try:
        state: dict[str, Any] = choice.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        file = Path(torch.hub.get_dir()) / "checkpoints" / choice.url.rpartition("/")[2]
        raise FileNotFoundError(
            f"pretrained=true: the weights are neither in {file} nor could they be fetched ({error}). Put {choice.url} "
            "there (TORCH_HOME moves the folder), or set model.pretrained=false"
        ) from error
    return state
