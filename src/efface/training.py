"""Fit a base model; read features out of it."""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from efface.data.base import Dataset, Split
from efface.data.groups import group_accuracies
from efface.models.base import Model

_READ_OUT_BATCH = 2048


@dataclass(frozen=True)
class Trained:
    """What training did."""

    history: list[dict[str, float]]
    """Per epoch: epoch, loss, accuracy, and the selection metric on val if there is one."""
    best_epoch: int
    seconds: float


def resolve_device(device: str) -> str:
    """`auto` is CUDA where it is, else the CPU.

    Raises:
        ValueError: a CUDA device is asked for that is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but no CUDA device is available: use device=cpu or device=auto")
    return device


@dataclass(frozen=True, kw_only=True)
class Erm:
    """Empirical risk minimisation: minibatch gradient descent on the mean cross-entropy.

    Args:
        optimizer: `adam`, `adamw` or `sgd` (with momentum 0.9).
        lr, weight_decay: of the optimiser.
        epochs: passes over train.
        batch_size: samples per step.
        select: the epoch to keep: `last`, or the best on val of `accuracy`, `unbiased_accuracy` or
            `worst_group_accuracy`, the earliest of equals.
        precision: `float32`, `bfloat16` (autocast), or `auto`: bfloat16 on CUDA devices that have it. On a CPU it gains
            nothing for small models.
    """

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    epochs: int = 10
    batch_size: int = 256
    select: str = "last"
    precision: Literal["float32", "bfloat16", "auto"] = "auto"

    def __post_init__(self) -> None:
        if self.optimizer not in ("adam", "adamw", "sgd"):
            raise ValueError(f"optimizer is {self.optimizer!r}, but must be 'adam', 'adamw' or 'sgd'")
        if self.lr <= 0 or self.weight_decay < 0 or self.epochs < 0 or self.batch_size < 1:
            raise ValueError(
                f"lr={self.lr}, weight_decay={self.weight_decay}, epochs={self.epochs}, batch_size={self.batch_size}: "
                "lr and batch_size must be positive, the others not negative"
            )
        selections = ("last", "accuracy", "unbiased_accuracy", "worst_group_accuracy")
        if self.select not in selections:
            raise ValueError(f"select is {self.select!r}, but must be one of {', '.join(selections)}")
        if self.precision not in ("float32", "bfloat16", "auto"):
            raise ValueError(f"precision is {self.precision!r}, but must be 'float32', 'bfloat16' or 'auto'")

    def fit(
        self,
        model: Model,
        dataset: Dataset,
        *,
        seed: int,
        device: str,
        progress: bool = True,
    ) -> Trained:
        """Train `model` in place on `dataset.train`.

        Raises:
            FloatingPointError: the loss is no longer finite.
        """
        start = time.perf_counter()
        train = dataset.train
        model.to(device).train()
        optimizer = self._optimizer(model)
        generator = torch.Generator().manual_seed(seed)
        history: list[dict[str, float]] = []
        best, best_epoch, best_state = -math.inf, self.epochs - 1, None
        steps = math.ceil(len(train) / self.batch_size)
        with tqdm(
            total=steps * self.epochs, desc="train", unit="batch", disable=None if progress else True, leave=False
        ) as bar:
            for epoch in range(self.epochs):
                loss, accuracy = self._epoch(model, train, optimizer, generator, device, bar)
                row = {"epoch": epoch, "loss": loss, "accuracy": accuracy}
                if self.select != "last":
                    row[f"val_{self.select}"] = score = self._score(model, dataset, device)
                    if score > best:
                        best, best_epoch = score, epoch
                        best_state = {k: v.detach().clone() for k, v in model.state_dict().items()}
                history.append(row)
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
        model: Model,
        train: Split,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        device: str,
        bar: "tqdm[Any]",
    ) -> tuple[float, float]:
        """One pass; mean loss and accuracy over it."""
        total_loss = torch.zeros((), device=device)
        total_hits = torch.zeros((), device=device)
        for i, rows in enumerate(torch.randperm(len(train), generator=generator).split(self.batch_size)):
            x, y = train.inputs(rows, device=device), train.y[rows].to(device)
            with self._autocast(device):
                logits = model(x)
                loss = functional.cross_entropy(logits.float(), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total_loss += loss.detach() * len(rows)
            total_hits += (logits.argmax(1) == y).sum()
            bar.update()
            if i % 50 == 0:
                seen = i * self.batch_size + len(rows)
                bar.set_postfix(loss=f"{total_loss / seen:.3f}", accuracy=f"{total_hits / seen:.3f}", refresh=False)
        loss_mean = float(total_loss / len(train))
        if not math.isfinite(loss_mean):
            raise FloatingPointError(
                f"training diverged: the loss is {loss_mean} with lr={self.lr}; lower training.lr, or check the inputs"
            )
        return loss_mean, float(total_hits / len(train))

    def _autocast(self, device: str) -> Any:
        kind = device.split(":")[0]
        on = self.precision == "bfloat16" or (
            self.precision == "auto" and kind == "cuda" and torch.cuda.is_bf16_supported()
        )
        return torch.autocast(kind, dtype=torch.bfloat16) if on else nullcontext()

    def _score(self, model: Model, dataset: Dataset, device: str) -> float:
        model.eval()
        val = dataset.val
        correct = read_out(model, val, device=device).argmax(1) == val.y
        model.train()
        if self.select == "accuracy":
            return float(correct.double().mean())
        per_group = group_accuracies(correct, val.y, val.a, len(dataset.classes), len(dataset.attributes))
        per_group = per_group[~per_group.isnan()]
        return float(per_group.mean() if self.select == "unbiased_accuracy" else per_group.min())


@torch.no_grad()
def read_out(
    module: nn.Module,
    split: Split,
    *,
    rows: Tensor | None = None,
    a: Tensor | None = None,
    device: str,
    progress: str | None = None,
) -> Tensor:
    """`module` applied to `rows` of a split (all if None) in batches: float32 `[len(rows), ...]` on the CPU.

    Args:
        module: a model for its logits, or its backbone for its features; in evaluation mode.
        a: attributes `[len(rows)]` to show the samples under, instead of their own.
        progress: a name for the progress bar; no bar if None.
    """
    rows = torch.arange(len(split)) if rows is None else rows
    out: Tensor | None = None
    with tqdm(total=len(rows), desc=progress, unit="sample", disable=None if progress else True, leave=False) as bar:
        for at in range(0, len(rows), _READ_OUT_BATCH):
            part = slice(at, at + _READ_OUT_BATCH)
            batch = module(split.inputs(rows[part], a=None if a is None else a[part], device=device)).float().cpu()
            if out is None:
                out = batch.new_empty(len(rows), *batch.shape[1:])
            out[part] = batch
            bar.update(len(batch))
    return torch.empty(0) if out is None else out
