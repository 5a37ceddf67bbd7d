"""ReBias: features that are independent of those of a network which can see colours and textures only.

Bahng, Chun, Yun, Choo & Oh, "Learning de-biased representations with biased representations", ICML 2020.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from efface.data.base import Dataset
from efface.models.base import Model
from efface.models.convnet import convnet
from efface.options import Ge, Gt, Len, options
from efface.training.learner import Learner
from efface.training.stepped import Stepped

_LEAST = 4
"""Samples without which HSIC has no unbiased estimate."""


def hsic(x: Tensor, y: Tensor, radius: float = 1.0) -> Tensor:
    """Estimate the Hilbert-Schmidt independence criterion of x `[m, d]` and y `[m, e]`, without bias: a scalar.

    HSIC₁ of Song et al., "Feature selection via dependence maximization", JMLR 2012, as in the ReBias paper, under
    Gaussian kernels exp(-‖u - v‖² / 2 radius²). Zero on average where x and y are independent, so that an estimate may
    be negative.

    Raises:
        ValueError: there are fewer than four samples.

    Cost: O(m² (d + e)).
    """
    m = len(x)
    if m < _LEAST:
        raise ValueError(f"x has {m} samples, but the estimate of HSIC needs {_LEAST} or more")
    k_x, k_y = _kernel(x, radius), _kernel(y, radius)
    means = k_x.sum() * k_y.sum() / ((m - 1) * (m - 2)) - 2 * (k_x.sum(0) @ k_y.sum(0)) / (m - 2)
    return ((k_x * k_y).sum() + means) / (m * (m - 3))


def _kernel(x: Tensor, radius: float) -> Tensor:
    """Return the kernel of each two rows, `[m, m]`, with zeros on the diagonal."""
    products = x @ x.T
    squares = products.diagonal()
    distances = (squares[:, None] + squares - 2 * products).clamp_min(0)
    return (-distances / (2 * radius**2)).exp() * (1 - torch.eye(len(x), device=x.device))


class Independent(Learner):
    """The game of two networks, section 3 of the paper: the features of f are to say nothing about those of g.

    f minimises CE(f) + λ HSIC(f, g), and g minimises CE(g) - λ HSIC(f, g), each with the features of the other held
    fixed, at the same time. The paper's code lets g step first, and so computes f twice for each batch.

    Args:
        model: f.
        biased: g.
        dataset: for the labels of train.
        training: the options.
        device: where the networks are to be.
    """

    def __init__(self, model: Model, biased: Model, dataset: Dataset, training: "Rebias", *, device: str) -> None:
        super().__init__(model, biased, precision=training.precision, device=device)
        self._biased, self._y = biased, dataset.train.y.to(device)
        self._strength, self._radius = training.strength, training.radius
        self._dependences: list[Tensor] = []

    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = self._y[rows.to(x.device)]
        features, logits = self._read(self.model, x)
        others, guess = self._read(self._biased, x)
        loss = functional.cross_entropy(logits, y) + functional.cross_entropy(guess, y)
        if len(rows) >= _LEAST:  # the last batch of an epoch may have fewer
            dependence = hsic(features, others.detach(), self._radius)
            self._dependences.append(dependence.detach())
            loss = loss + self._strength * (dependence - hsic(features.detach(), others, self._radius))
        return loss, logits

    def report(self) -> dict[str, float]:
        """Return the mean of HSIC over the batches of the epoch, if any had enough samples."""
        values, self._dependences = self._dependences, []
        return {"hsic": float(torch.stack(values).mean())} if values else {}

    def _read(self, network: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features `[n, d]` and logits `[n, K]`."""
        features = self.compute(network.backbone, x)
        return features, self.compute(network.head, features)


@options
class Rebias(Stepped):
    """ReBias: train a convolutional network against one whose convolutions see single pixels.

    The defaults are those of the paper for its Biased MNIST, which is Colored MNIST's variant `rebias`: section 4.2 and
    its code. Its network there is `model=convnet` with channels [16, 32, 64, 128], kernel_size 7 and pool 1. Neither
    network is told the attribute.

    Args:
        weight_decay: of the optimiser, as published.
        strength: λ of both players, 1 in the paper.
        radius: of the Gaussian kernels on the features, 1 in the paper for Biased MNIST.
        channels: of the biased network, whose kernels are one pixel wide.
    """

    weight_decay: Annotated[float, Ge(0)] = 1e-4
    strength: Annotated[float, Ge(0)] = 1.0
    radius: Annotated[float, Gt(0)] = 1.0
    channels: Annotated[Sequence[Annotated[int, Ge(1)]], Len(1)] = (16, 32, 64, 128)

    def require(self, model: Model, dataset: Dataset) -> None:
        """See `Erm.require`: inputs must be images, and the model must see more of them than single pixels."""
        super().require(model, dataset)
        if len(dataset.input_shape) != 3:
            raise ValueError(
                f"training=rebias needs images [channels, height, width], but inputs have shape {dataset.input_shape}: "
                "take training=lff or jtt, which need none"
            )
        sides = [max(layer.kernel_size) for layer in model.modules() if isinstance(layer, nn.Conv2d)]
        if max(sides, default=1) == 1:
            raise ValueError(
                "training=rebias sets a convolutional network against one that sees single pixels, but the model has "
                "no convolution wider than that: take model=convnet or resnet20"
            )

    def learner(self, model: Model, dataset: Dataset, *, seed: int, device: str) -> Independent:
        """Return both networks; that of single pixels has random weights, drawn from `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            biased = convnet(
                input_shape=dataset.input_shape,
                n_classes=len(dataset.classes),
                channels=self.channels,
                kernel_size=1,
                pool=1,
            )
        return Independent(model, biased.train(), dataset, self, device=device)
