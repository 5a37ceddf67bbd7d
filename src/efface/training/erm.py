"""Empirical risk minimisation, and the training loop that the other ways of training share."""

import math
import time
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from efface.data.base import Dataset
from efface.data.groups import Rule, val_score
from efface.devices import Precision
from efface.models.base import Model
from efface.options import Ge, Gt, options
from efface.training.augment import augment
from efface.training.learner import CrossEntropy, Learner, Objective, Plain
from efface.training.reading import read_out

Selection = Literal["last", "loss", Rule]
"""Which epoch is kept: the last, that of the least mean cross-entropy on val, or the best on val by a rule."""


@dataclass(frozen=True)
class Trained:
    """How a training went."""

    history: list[dict[str, float]]
    """One row per epoch: `epoch`, `loss`, `accuracy`, the score on val if epochs are chosen by one, and the metrics of
    the objective."""
    best_epoch: int
    seconds: float


@options
class Erm:
    """Empirical risk minimisation: minibatch gradient descent on the mean cross-entropy.

    Args:
        optimizer: `adam`, `adamw` or `sgd` (with momentum 0.9).
        lr: learning rate.
        weight_decay: of the optimiser.
        epochs: passes over train.
        batch_size: samples per step.
        select: which epoch to keep: the `last`, that of the least cross-entropy on val (`loss`), or the best on val by
            a rule of `efface.data.groups.val_score`; the earliest of equals.
        augment: show images cut and mirrored at random, see `efface.training.augment`.
        precision: `float32`, `bfloat16` (autocast), or `auto`: see `efface.devices`.
    """

    head_only: ClassVar[bool] = False
    """Whether the backbone stays as it is: what is trained is then given its features in place of inputs."""

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[float, Gt(0)] = 1e-3
    weight_decay: Annotated[float, Ge(0)] = 0.0
    epochs: Annotated[int, Ge(0)] = 10
    batch_size: Annotated[int, Ge(1)] = 256
    select: Selection = "last"
    augment: bool = False
    precision: Precision = "auto"

    @property
    def trains(self) -> bool:
        """Whether there is anything to do: after no epochs a model is as it was."""
        return self.epochs > 0

    def order(self, dataset: Dataset, generator: torch.Generator) -> Tensor:
        """Draw the rows of train in the order in which an epoch shows them."""
        return torch.randperm(len(dataset.train), generator=generator)

    def objective(self, dataset: Dataset, device: str) -> Objective:
        """Return the loss to minimise on train."""
        return CrossEntropy(dataset.train.y, None, device)

    def network(self, model: Model) -> Model:
        """Return the network that is trained in place of the one that is configured: that one itself.

        Raises:
            ValueError: this way of training cannot use it.
        """
        return model

    def require(self, model: Model, dataset: Dataset) -> None:
        """Check that model and data are such as this way of training needs.

        Raises:
            ValueError: they are not; the message says what to do.
        """
        if self.augment and len(dataset.input_shape) != 3:
            raise ValueError(f"augment=true: inputs of shape {dataset.input_shape} are no images")

    def learner(self, model: Model, dataset: Dataset, *, seed: int, device: str) -> Learner:
        """Return what is trained: the model, by its objective; `seed` draws what it may need beside the model."""
        return Plain(model, self.objective(dataset, device), precision=self.precision, device=device)

    def rate(self, epoch: int) -> float:
        """Return what the learning rate is multiplied by in an epoch."""
        return 1.0

    def is_over(self, epochs_since_best: int) -> bool:
        """Whether training ends early, so many epochs after the best one on val."""
        return False

    def fit(self, model: Model, dataset: Dataset, *, seed: int, device: str, progress: bool = True) -> Trained:
        """Train `model` in place on `dataset.train`.

        Raises:
            FloatingPointError: the loss is no longer finite.
            ValueError: model or data are not such as this way of training needs.
        """
        start = time.perf_counter()
        self.require(model, dataset)
        model.to(device).train()
        learner = self.learner(model, dataset, seed=seed, device=device)
        optimizer = self._optimizer(learner.trained)
        generator = torch.Generator().manual_seed(seed)
        history: list[dict[str, float]] = []
        best, best_epoch, best_state = -math.inf, self.epochs - 1, None
        steps = math.ceil(len(dataset.train) / self.batch_size)
        with tqdm(
            total=steps * self.epochs, desc="train", unit="batch", disable=None if progress else True, leave=False
        ) as bar:
            for epoch in range(self.epochs):
                for group in optimizer.param_groups:
                    group["lr"] = self.lr * self.rate(epoch)
                loss, accuracy = self._epoch(learner, dataset, optimizer, generator, device, bar)
                row = {"epoch": epoch, "loss": loss, "accuracy": accuracy, **learner.report()}
                history.append(row)
                if self.select == "last":
                    continue
                score = self._score(self.select, model, dataset, device)
                row[f"val_{self.select}"] = -score if self.select == "loss" else score
                if score > best:
                    best, best_epoch = score, epoch
                    best_state = {k: v.detach().clone() for k, v in model.state_dict().items()}
                elif self.is_over(epoch - best_epoch):
                    break
        if best_state is not None:
            model.load_state_dict(best_state)
        model.eval()
        return Trained(history=history, best_epoch=best_epoch, seconds=time.perf_counter() - start)

    def _optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        # Fused: one pass over the parameters, on the CPU too, for half the time of a step.
        options: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay, "fused": True}
        if self.optimizer == "sgd":
            return torch.optim.SGD(model.parameters(), momentum=0.9, **options)
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return kind(model.parameters(), **options)

    def _epoch(
        self,
        learner: Learner,
        dataset: Dataset,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        device: str,
        bar: "tqdm[Any]",
    ) -> tuple[float, float]:
        """Make one pass over train. Returns the mean loss and the accuracy over it."""
        train = dataset.train
        total_loss = torch.zeros((), device=device)
        total_hits = torch.zeros((), device=device)
        seen = 0
        for i, rows in enumerate(self.order(dataset, generator).split(self.batch_size)):
            x, y = train.inputs(rows, device=device), train.y[rows].to(device)
            if self.augment:
                x = augment(x, generator)
            loss, logits = learner(x, rows)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            seen += len(rows)
            total_loss += loss.detach() * len(rows)
            total_hits += (logits.argmax(1) == y).sum()
            bar.update()
            if i % 50 == 0:
                bar.set_postfix(loss=f"{total_loss / seen:.3f}", accuracy=f"{total_hits / seen:.3f}", refresh=False)
        loss_mean = float(total_loss / seen)
        if not math.isfinite(loss_mean):
            raise FloatingPointError(
                f"training diverged: the loss is {loss_mean} with lr={self.lr}; lower training.lr, or check the inputs"
            )
        return loss_mean, float(total_hits / seen)

    def _score(self, rule: Literal["loss", Rule], model: Model, dataset: Dataset, device: str) -> float:
        """Score the model on val; higher is better."""
        model.eval()
        val = dataset.val
        logits = read_out(model, val, device=device, precision=self.precision)
        model.train()
        if rule == "loss":
            return -float(functional.cross_entropy(logits.double(), val.y))
        return val_score(logits, val.y, val.a, len(dataset.classes), len(dataset.attributes), rule)
