"""What a scrubbed model still knows: bits for each byte of text, and the states behind its layers."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from efface.moments import Moments
from efface.scrubbing.families import family_of
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.layerwise import input_device
from efface.scrubbing.scrubber import ConceptScrubber, hooked
from efface.scrubbing.tokens import Batch, Batches, TokenData, predicted, token_nats


@torch.no_grad()
def bits_per_byte(
    lm: LanguageModel, scrubber: ConceptScrubber, data: TokenData, *, batch_size: int, progress: bool = False
) -> float | None:
    """Return the loss of the predicted tokens over the bytes of UTF-8 they stand for; None without a causal head.

    Comparable between tokenisers. The first token of a sequence counts only if a special one stands before it.
    """
    if not family_of(lm.model).causal or getattr(lm.model, "get_output_embeddings", lambda: None)() is None:
        return None
    nats, size = 0.0, 0
    batches = Batches(data.columns(), None, batch_size, input_device(lm.model))
    with scrubber.scrub(lm.model):
        for i, batch in enumerate(_with_bar(batches, progress)):
            logits = lm.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
            nats += float(token_nats(logits, batch).double().sum())
            n_bytes = data.n_bytes[i * batch_size : (i + 1) * batch_size, 1 : logits.shape[1]]
            size += int((n_bytes * predicted(batch).cpu()).sum())
    if size == 0:
        raise ValueError("data hold no token that could be predicted: give sequences of two tokens or more")
    return nats / math.log(2) / size


def unigram_bits_per_byte(data: TokenData) -> float:
    """Return the entropy of the tokens' frequencies over their bytes: what a model without context reaches at best."""
    real = data.n_bytes > 0
    counts = torch.bincount(data.input_ids[real]).double()
    frequency = counts[counts > 0] / counts.sum()
    return float(-(frequency * frequency.log2()).sum() * counts.sum() / data.n_bytes[real].sum())


@torch.no_grad()
def states_behind(
    lm: LanguageModel,
    scrubber: ConceptScrubber,
    data: TokenData,
    paths: Sequence[str],
    *,
    batch_size: int,
    tokens: Tensor,
    progress: bool = False,
) -> dict[str, Tensor]:
    """Return what the model computes at some modules for some tokens: float32 `[m, d]` each, on the CPU.

    Args:
        lm: the model.
        scrubber: its erasers act first.
        data: the sequences.
        paths: of modules, from the base model.
        batch_size: sequences at a time.
        tokens: which tokens, `[n, t]` bool.
        progress: show a bar.

    Memory: 4 m d bytes for each path.
    """
    parts: dict[str, list[Tensor]] = {path: [] for path in paths}

    def visit(batch: int, path: str, x: Tensor) -> None:
        rows = tokens[batch * batch_size : (batch + 1) * batch_size, : x.shape[1]]
        parts[path].append(x[rows.to(x.device)].float().cpu())

    _visit(lm, scrubber, data, paths, batch_size, visit, progress)
    return {path: torch.cat(parts.pop(path)) for path in paths}


def states_by_site(
    lm: LanguageModel,
    scrubber: ConceptScrubber,
    data: TokenData,
    paths: Sequence[str],
    *,
    batch_size: int,
    tokens: Tensor,
    max_bytes: int,
    progress: bool = False,
) -> Iterator[tuple[str, Tensor]]:
    """Yield each path with its states, as `states_behind` returns them, of as many paths at a time as fit in memory.

    Args:
        lm, scrubber, data, paths, batch_size, tokens, progress: as for `states_behind`.
        max_bytes: of states that are in memory at once; of one path if they are more.

    Cost: a pass over the data for every `max_bytes` of states.
    """
    width = int(lm.model.config.hidden_size)  # type: ignore[union-attr, arg-type]
    together = max(max_bytes // max(4 * int(tokens.sum()) * width, 1), 1)
    for start in range(0, len(paths), together):
        some = paths[start : start + together]
        states = states_behind(lm, scrubber, data, some, batch_size=batch_size, tokens=tokens, progress=progress)
        for path in some:
            yield path, states.pop(path)


@torch.no_grad()
def largest_covariances(
    lm: LanguageModel,
    scrubber: ConceptScrubber,
    data: TokenData,
    paths: Sequence[str],
    n_labels: int,
    *,
    batch_size: int,
    progress: bool = False,
) -> dict[str, float]:
    """Return the largest |Cov(x, one-hot z)| of the scrubbed states at each module, over all labelled tokens.

    Columns are in units of their root mean square in the model as it is; those that are zero there, below 1e-12 of the
    largest, as they are. Streams: O(d k) memory for each path.
    """
    moments: dict[str, Moments] = {}
    scale: dict[str, Moments] = {}
    labelled = (data.z >= 0) & (data.attention_mask > 0)

    def add(to: dict[str, Moments], batch: int, path: str, x: Tensor) -> None:
        part = slice(batch * batch_size, (batch + 1) * batch_size)
        rows = labelled[part]
        z = functional.one_hot(data.z[part][rows], n_labels).float().to(x.device)
        states = x[rows.to(x.device)].float()
        if path not in to:
            to[path] = Moments(x.shape[-1], n_labels, device=x.device, track_xx=False)
        to[path].update(states, z)

    def square(batch: int, path: str, x: Tensor) -> None:
        add(scale, batch, path, x.float().square())

    _visit(lm, scrubber, data, paths, batch_size, lambda batch, path, x: add(moments, batch, path, x), progress)
    _visit(lm, ConceptScrubber(), data, paths, batch_size, square, progress)
    largest = {}
    for path in paths:
        std = scale[path].mean_x.sqrt()[:, None]
        dead = std <= 1e-12 * std.max()
        largest[path] = float((moments[path].cov_xz() / torch.where(dead, 1, std)).abs().max())
    return largest


def _visit(
    lm: LanguageModel,
    scrubber: ConceptScrubber,
    data: TokenData,
    paths: Sequence[str],
    batch_size: int,
    visit: Callable[[int, str, Tensor], None],
    progress: bool,
) -> None:
    """Call `visit(number of the batch, path, states)` behind every module, after the scrubber."""
    batches = Batches(data.columns(), None, batch_size, input_device(lm.model))
    base = getattr(lm.model, "base_model", lm.model)
    with scrubber.scrub(lm.model):
        for i, batch in enumerate(_with_bar(batches, progress)):
            hooks = dict.fromkeys(paths, lambda path, x, i=i: visit(i, path, x))
            with hooked(lm.model, hooks, pre_hook=scrubber.pre_hook):
                base(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)


def _with_bar(batches: Batches, progress: bool) -> Iterable[Batch]:
    return tqdm(batches, desc="read", unit="batch", disable=None if progress else True, leave=False)
