"""What classifiers from elsewhere have in common, whoever wrote them: a head, and a normalisation of images."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from efface.models.base import Model, ModelSource
from efface.models.pretrained import ImageNormalised, require_images
from efface.models.wrapped import wrap
from efface.options import Gt, Len, options

_SAMPLES = 8
"""How many a classifier is tried on."""


@options
class Classifier(ModelSource):
    """A classifier from elsewhere with its own last linear layer, see `efface.models.wrapped.wrap`.

    Args:
        head: the name of that layer; None where it can be found.
        mean, std: the normalisation of images on which the classifier was trained, for each of three channels of pixels
            in 0 … 1; None for a classifier that takes inputs as the data set hands them out.
        images: what those are: `imagenet` if they are normalised by ImageNet's mean and deviation, as on CelebA, or
            `pixels` in 0 … 1, as on Colored MNIST.
    """

    head: str | None = None
    mean: Annotated[Sequence[float], Len(3, 3)] | None = None
    std: Annotated[Sequence[Annotated[float, Gt(0)]], Len(3, 3)] | None = None
    images: Literal["imagenet", "pixels"] = "imagenet"

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: set both, or none")

    def normalised(
        self, input_shape: tuple[int, ...], mean: Sequence[float] | None, std: Sequence[float] | None
    ) -> nn.Module:
        """Return the map from a data set's inputs to those of a classifier.

        Raises:
            ValueError: there is a normalisation, but inputs are no images.
        """
        if mean is None or std is None:
            return nn.Identity()
        require_images(input_shape, what="a model with model.mean and model.std")
        return ImageNormalised(input_shape[0], mean=mean, std=std, pixels=self.images == "pixels")

    def model(
        self, module: nn.Module, prepare: nn.Module, n_classes: int, *, example: Tensor, pretrained: bool = True
    ) -> Model:
        """Make a network the model of a run.

        Args:
            module: the network.
            prepare: makes what it is called with out of a data set's inputs.
            n_classes: of the data.
            example: some inputs.
            pretrained: whether it has weights from elsewhere.

        Raises:
            ValueError: it has no linear head, or one with another number of outputs.
        """
        model = wrap(module, head=self.head, example=example, prepare=prepare, pretrained=pretrained)
        if model.head.out_features != n_classes:
            raise ValueError(
                f"the model has {model.head.out_features} outputs, but the data have {n_classes} classes: take one "
                "that was trained for these, or make it with as many (model=custom: model.arguments)"
            )
        return model


def random_inputs(input_shape: tuple[int, ...]) -> Tensor:
    """Return some inputs `[n, *input_shape]`, always the same, and draw nothing from torch's own generator."""
    return torch.randn(_SAMPLES, *input_shape, generator=torch.Generator().manual_seed(0))
