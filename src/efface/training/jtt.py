"""Just Train Twice: a first model, stopped early, finds the samples that the second is shown more often.

Liu, Haghgoo, Chen, Raghunathan, Koh, Sagawa, Liang & Finn, "Just train twice: improving group robustness without
training group information", ICML 2021.
"""

import copy
import dataclasses
import time
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from efface.data.base import Dataset, Split
from efface.models.base import Model
from efface.options import Ge, options
from efface.training.erm import Erm, Selection, Trained
from efface.training.reading import read_out


@dataclass(frozen=True)
class Repeated:
    """A split with some of its rows, each as often as it is named.

    Args:
        split: the whole.
        rows: `[n]` int64.
    """

    split: Split
    rows: Tensor

    @property
    def index(self) -> Tensor:
        return self.split.index[self.rows]

    @property
    def y(self) -> Tensor:
        return self.split.y[self.rows]

    @property
    def a(self) -> Tensor:
        return self.split.a[self.rows]

    @property
    def cluster(self) -> Tensor | None:
        return None if self.split.cluster is None else self.split.cluster[self.rows]

    def inputs(self, rows: Tensor, *, a: Tensor | None = None, device: str | torch.device = "cpu") -> Tensor:
        return self.split.inputs(self.rows[rows], a=a, device=device)

    def __len__(self) -> int:
        return len(self.rows)


@options
class Jtt(Erm):
    """Just Train Twice, algorithm 1 of the paper. Train needs no attribute; val does, whose worst group chooses.

    The first model is trained by `Erm` with the same options, for `first_epochs`. The second starts at the same
    weights, and an epoch shows it every sample that the first one misclassifies `upweight` times, and all others once.
    The defaults are the paper's for CelebA; on other data they are to be chosen on val, by the metrics of val that each
    record has.

    Args:
        first_epochs: T, epochs of the first model; 1 on CelebA and 60 on Waterbirds in the paper.
        upweight: λ_up; 50 on CelebA and 100 on Waterbirds in the paper.
    """

    select: Selection = "worst_group_accuracy"
    first_epochs: Annotated[int, Ge(1)] = 1
    upweight: Annotated[int, Ge(1)] = 50

    def misclassified(self, model: Model, dataset: Dataset, *, seed: int, device: str, progress: bool = True) -> Tensor:
        """Train a copy of the model for `first_epochs`, and return the rows of train that it misclassifies, sorted."""
        names = {field.name for field in dataclasses.fields(Erm)}
        first = Erm(**{name: getattr(self, name) for name in names} | {"epochs": self.first_epochs, "select": "last"})
        model = copy.deepcopy(model)
        first.fit(model, dataset, seed=seed, device=device, progress=progress)
        logits = read_out(model, dataset.train, device=device, precision=self.precision)
        return (logits.argmax(1) != dataset.train.y).nonzero()[:, 0]

    def fit(self, model: Model, dataset: Dataset, *, seed: int, device: str, progress: bool = True) -> Trained:
        """See `Erm.fit`; `upweighted` in the history is how many samples the first model misclassified.

        Raises:
            ValueError: it misclassified none.
        """
        self.require(model, dataset)
        start = time.perf_counter()
        rows = self.misclassified(model, dataset, seed=seed, device=device, progress=progress)
        if not len(rows):
            raise ValueError(
                f"training=jtt: the first model misclassifies no sample of train after {self.first_epochs} epochs, so "
                "that none can be shown more often: lower training.first_epochs or training.lr, or raise "
                "training.weight_decay"
            )
        shown = torch.cat([torch.arange(len(dataset.train)), rows.repeat(self.upweight - 1)])
        upsampled = dataclasses.replace(dataset, train=Repeated(dataset.train, shown))
        trained = super().fit(model, upsampled, seed=seed, device=device, progress=progress)
        history = [{**row, "upweighted": float(len(rows))} for row in trained.history]
        return Trained(history=history, best_epoch=trained.best_epoch, seconds=time.perf_counter() - start)
