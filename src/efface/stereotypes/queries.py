"""Questions to a language model, the probability of tokens at places of sequences, and how they are answered.

What a benchmark asks of a causal or of a masked model becomes a list of `Query`. The output layer then works at the
places that are asked for alone, and on as many at a time as fit in memory: of a vocabulary of 50,000 tokens, it would
otherwise take most of the memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.layerwise import input_device


@dataclass(frozen=True)
class Query:
    """A sequence, and the probability of which tokens is asked for."""

    ids: tuple[int, ...]
    """The sequence with its special tokens."""
    places: tuple[int, ...]
    """Positions whose outputs are read."""
    targets: tuple[int, ...]
    """The token that is asked for at each of them."""


@dataclass(frozen=True)
class States:
    """What the output layer reads at the places of some queries, and the tokens that are asked for there."""

    x: Tensor
    """`[m, d]` float32"""
    y: Tensor
    """`[m]`"""
    query: Tensor
    """`[m]`: the number of the query of each."""

    def to(self, device: torch.device) -> "States":
        """Copy them to a device."""
        return States(self.x.to(device), self.y.to(device), self.query.to(device))


def output_layer(lm: LanguageModel) -> nn.Linear:
    """Return the layer that makes logits of states.

    Raises:
        ValueError: there is none that is linear.
    """
    layer = getattr(lm.model, "get_output_embeddings", lambda: None)()
    if not isinstance(layer, nn.Linear):
        kind = type(lm.model).__name__
        raise ValueError(
            f"model: {kind} has no language-modelling head, so that no token has a probability: take a model with one, "
            "and head=causal or head=masked"
        )
    return layer


def longest(lm: LanguageModel) -> int | None:
    """Return how many tokens the model reads at most; None if it does not say."""
    config: Any = lm.model.config
    limit = getattr(config, "max_position_embeddings", None)
    return None if limit is None else int(limit)


def require_lengths(lm: LanguageModel, sequences: Iterable[tuple[str, int]]) -> None:
    """Check that the model can read sequences.

    Args:
        lm: the model.
        sequences: the text of each, and how many tokens it has, special ones included.

    Raises:
        ValueError: one is too long.
    """
    limit = longest(lm)
    for text, length in sequences:
        if limit is not None and length > limit:
            raise ValueError(
                f"{text[:60]!r} … has {length} tokens, but the model reads {limit}: leave it out of the file, or take "
                "a model that reads more"
            )


@torch.no_grad()
def log_probabilities(
    lm: LanguageModel, queries: Sequence[Query], *, batch_tokens: int, progress: bool = False
) -> list[Tensor]:
    """Return the natural logarithm of each probability that is asked for, float64 on the CPU, a tensor for each query.

    Args:
        lm: the model, with whatever acts on it.
        queries: in any order.
        batch_tokens: tokens, padding included, that the model reads at a time, and places at a time.
        progress: show a bar.
    """
    answers: list[Tensor] = [torch.empty(0)] * len(queries)
    for rows, logits in _outputs(lm, queries, batch_tokens, progress):
        y = torch.tensor([token for i in rows for token in queries[i].targets], device=logits.device)
        logits = logits.float()
        values = (logits.gather(1, y[:, None])[:, 0] - logits.logsumexp(1)).double().cpu()
        for i, part in zip(rows, values.split([len(queries[i].places) for i in rows]), strict=True):
            answers[i] = part
    return answers


@torch.no_grad()
def output_states(lm: LanguageModel, queries: Sequence[Query], *, batch_tokens: int, progress: bool = False) -> States:
    """Return what the output layer reads at the places of the queries, in their order; 4 m d bytes."""
    parts: list[Tensor] = [torch.empty(0)] * len(queries)
    read: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        read.append(x.float().cpu())
        return x[:1]  # the logits are not wanted

    for rows, _ in _outputs(lm, queries, batch_tokens, progress, keep):
        for i, part in zip(rows, read.pop().split([len(queries[i].places) for i in rows]), strict=True):
            parts[i] = part
    counts = torch.tensor([len(query.places) for query in queries])
    y = torch.tensor([token for query in queries for token in query.targets])
    return States(torch.cat(parts), y, torch.arange(len(queries)).repeat_interleave(counts))


def _outputs(
    lm: LanguageModel,
    queries: Sequence[Query],
    batch_tokens: int,
    progress: bool,
    before: Callable[[Tensor], Tensor] = lambda x: x,
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield the numbers of some queries with the logits at their places, one query after the other."""
    device, layer = input_device(lm.model), output_layer(lm)
    bar = tqdm(total=len(queries), desc="score", unit="query", disable=None if progress else True, leave=False)
    with bar:
        for rows in batches(queries, batch_tokens):
            part = [queries[i] for i in rows]
            ids = nn.utils.rnn.pad_sequence([torch.tensor(q.ids) for q in part], True, lm.pad)
            mask = torch.arange(ids.shape[1]) < torch.tensor([len(q.ids) for q in part])[:, None]
            row = torch.tensor([i for i, query in enumerate(part) for _ in query.places], device=device)
            place = torch.tensor([place for query in part for place in query.places], device=device)
            arguments = {"use_cache": False} if lm.head == "causal" else {}
            with _at_places(layer, row, place, before):
                output = lm.model(input_ids=ids.to(device), attention_mask=mask.long().to(device), **arguments)
            yield rows, logits_of(output)
            bar.update(len(rows))


def logits_of(output: Any) -> Tensor:
    """Return the logits of tokens in a model's output; with a second head, they have a name of their own."""
    logits: Tensor = output.prediction_logits if hasattr(output, "prediction_logits") else output.logits
    return logits


@contextmanager
def _at_places(layer: nn.Linear, row: Tensor, place: Tensor, before: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let the output layer read some places of its input alone within this context, `[m, d]`."""

    def choose(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        (x,) = args
        return (before(x[row.to(x.device), place.to(x.device)]),)

    handle = layer.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def batches(queries: Sequence[Query], batch_tokens: int) -> Iterator[list[int]]:
    """Yield numbers of queries, those of like length together, the longest first.

    Each batch has at most `batch_tokens` tokens with its padding, and as many places; or one query that has more.
    """
    order = sorted(range(len(queries)), key=lambda i: (-len(queries[i].ids), i))
    batch: list[int] = []
    places = 0
    for i in order:
        longest_one = len(queries[batch[0]].ids) if batch else 0
        places += len(queries[i].places)
        if batch and (longest_one * (len(batch) + 1) > batch_tokens or places > batch_tokens):
            yield batch
            batch, places = [], len(queries[i].places)
        batch.append(i)
    if batch:
        yield batch
