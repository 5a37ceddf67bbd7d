"""Labelled words as labelled tokens, and batches of token-labelled sequences from tensors or data sets."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from efface.erasure.inputs import as_tensor

if TYPE_CHECKING:  # `scrub` needs no more than the core and transformers
    from efface.data.conllu import Document

UNLABELLED = -100
"""The label of a token that belongs to no word; statistics and probes leave it out."""

Encode = Callable[[str], tuple[list[int], list[tuple[int, int]]]]
"""Encodes a text: token ids without special tokens, and the first character and the one after the last of each."""


@dataclass(frozen=True)
class TokenData:
    """Token-labelled sequences, padded on the right."""

    input_ids: Tensor
    """`[n, t]` int64"""
    attention_mask: Tensor
    """`[n, t]` int64: 0 on padding."""
    z: Tensor
    """`[n, t]` int64: labels, or `UNLABELLED`."""
    n_bytes: Tensor
    """`[n, t]` int64: the bytes of UTF-8 that each token adds to the text; their sum over a document is its size."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def columns(self) -> dict[str, Any]:
        """Return the columns that `scrub` takes; the labels are `z`."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "z": self.z}

    def rows(self, rows: Tensor) -> "TokenData":
        """Select some of the sequences."""
        return TokenData(self.input_ids[rows], self.attention_mask[rows], self.z[rows], self.n_bytes[rows])

    def by_length(self) -> "SortedTokens":
        """Sort the sequences by their length, so that batches of them need little padding."""
        order = torch.argsort(self.attention_mask.sum(1), stable=True)
        return SortedTokens(**vars(self.rows(order)))


class SortedTokens(TokenData):
    """Token-labelled sequences of like length one behind the other, whose columns are lists of rows without padding."""

    def columns(self) -> dict[str, Any]:
        lengths = self.attention_mask.sum(1).tolist()
        return {
            name: [row[:length] for row, length in zip(column, lengths, strict=True)]
            for name, column in super().columns().items()
        }


def align(text: str, words: Sequence[tuple[int, int, str]], offsets: Sequence[tuple[int, int]]) -> list[str | None]:
    """Label each token: with the word of which it covers most characters, the first of equals; None without a word.

    Args:
        text: the text.
        words: first character, the one after the last, and label of each word, in order.
        offsets: first character and the one after the last of each token, in order. White space at the ends of a token
            does not count, as tokenisers add it to the word before or after.
    """
    labels: list[str | None] = []
    first = 0
    for start, end in offsets:
        while first < len(words) and words[first][1] <= start:
            first += 1
        best, label = 0, None
        i = first
        while i < len(words) and words[i][0] < end:
            low, high, name = words[i]
            covered = len(text[max(low, start) : min(high, end)].strip())
            if covered > best:
                best, label = covered, name
            i += 1
        labels.append(label)
    return labels


def tokenise(
    documents: Sequence["Document"],
    tags: Sequence[str],
    encode: Encode,
    *,
    max_length: int,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    pad: int = 0,
) -> TokenData:
    """Cut documents into sequences of at most `max_length` tokens, each between `prefix` and `suffix`.

    Args:
        documents: texts with labelled words.
        tags: the labels; a label's number is its place here.
        encode: the tokeniser.
        max_length: tokens in a sequence; longer documents are cut into several.
        prefix: ids of special tokens before each sequence, such as a start token, from which a language model predicts
            the first token.
        suffix: ids of special tokens after each sequence.
        pad: id of padding.

    Raises:
        ValueError: no token, a label that is not in `tags`, or no room between prefix and suffix.
    """
    room = max_length - len(prefix) - len(suffix)
    if room < 1:
        raise ValueError(f"max_length is {max_length}, but must exceed the {len(prefix) + len(suffix)} special tokens")
    number = {tag: i for i, tag in enumerate(tags)}
    unknown = sorted({tag for document in documents for _, _, tag in document.words} - set(number))
    if unknown:
        raise ValueError(f"documents have the tags {', '.join(unknown)}, but tags holds only {', '.join(tags)}")
    ids, labels, sizes = list[list[int]](), list[list[int]](), list[list[int]]()
    for document in documents:
        columns = _encode_document(document, number, encode)
        for start in range(0, len(columns[0]), room):
            for rows, column in zip((ids, labels, sizes), columns, strict=True):
                rows.append(column[start : start + room])
    if not ids:
        raise ValueError("documents hold no token: give some text")
    lengths = torch.tensor([len(row) + len(prefix) + len(suffix) for row in ids])
    unlabelled = [UNLABELLED] * len(prefix), [UNLABELLED] * len(suffix)
    return TokenData(
        input_ids=_fill(ids, prefix, suffix, max_length, pad),
        attention_mask=(torch.arange(max_length) < lengths[:, None]).long(),
        z=_fill(labels, *unlabelled, max_length, UNLABELLED),
        n_bytes=_fill(sizes, [0] * len(prefix), [0] * len(suffix), max_length, 0),
    )


def _encode_document(
    document: "Document", number: Mapping[str, int], encode: Encode
) -> tuple[list[int], list[int], list[int]]:
    """Return the ids, the labels and the bytes of a document's tokens."""
    ids, offsets = encode(document.text)
    labels = [UNLABELLED if tag is None else number[tag] for tag in align(document.text, document.words, offsets)]
    sizes, counted = [], 0
    for _, end in offsets:
        sizes.append(len(document.text[counted:end].encode()))
        counted = max(counted, end)
    return ids, labels, sizes


def _fill(
    rows: Sequence[Sequence[int]], before: Sequence[int], after: Sequence[int], length: int, padding: int
) -> Tensor:
    """Put each row between `before` and `after`, and pad it on the right to `length`."""
    table = torch.full((len(rows), length), padding, dtype=torch.int64)
    for i, row in enumerate(rows):
        values = [*before, *row, *after]
        table[i, : len(values)] = torch.tensor(values)
    return table


@dataclass(frozen=True)
class Batch:
    """Some sequences on a model's device."""

    input_ids: Tensor
    """`[b, t]`"""
    attention_mask: Tensor
    """`[b, t]`"""
    z: Tensor | None
    """`[b, t]`"""

    @property
    def labelled(self) -> Tensor:
        """Mask `[b, t]` of the tokens that take part in statistics: those with a label that are not padding."""
        assert self.z is not None
        return (self.z >= 0) & (self.attention_mask > 0)


def predicted(batch: Batch) -> Tensor:
    """Mask `[b, t − 1]` the tokens that a language model predicts from those before: all real ones but the first."""
    real = batch.attention_mask > 0
    return real[:, 1:] & real[:, :-1]


def token_nats(logits: Tensor, batch: Batch) -> Tensor:
    """Compute the loss of each token from the second on, `[b, t − 1]` float32 in nats; 0 if it is not predicted."""
    targets = batch.input_ids[:, 1:].to(logits.device)
    nats = functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets.flatten(), reduction="none")
    return nats.view_as(targets) * predicted(batch).to(logits.device)


class Batches:
    """Token-labelled sequences in batches, the same ones in the same order each time.

    Args:
        data: a `datasets.Dataset`, or a mapping from column names to tensors `[n, t]`; with `input_ids`, and
            `attention_mask` if there is padding. Sequences of different lengths are padded on the right.
        z_column: name of the labels, `[n, t]` integers; negative ones are left out. None if there are none.
        batch_size: sequences in a batch.
        device: the device of the batches.
        vocabulary: how many tokens the model knows; not checked if None.

    Raises:
        ValueError: a column is missing, there are no sequences, a column differs from the tokens in number, holds other
            than integers, or tokens that the model does not know; some of it when a batch is read.
    """

    def __init__(
        self,
        data: Any,
        z_column: str | None,
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        vocabulary: int | None = None,
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but must be an integer, at least 1")
        names = list(data) if isinstance(data, Mapping) else list(data.column_names)
        for name in ("input_ids", *([z_column] if z_column is not None else [])):
            if name not in names:
                raise ValueError(f"train has no column {name!r}, only {', '.join(map(repr, names))}")
        self.data, self.z_column, self.batch_size, self.device = data, z_column, batch_size, device
        self.vocabulary = vocabulary
        self.masked = "attention_mask" in names
        # A data set has as many rows in all its columns, and reading one may mean reading it whole.
        self.n = len(data["input_ids"]) if isinstance(data, Mapping) else len(data)
        if self.n == 0:
            raise ValueError("train is empty: give at least one sequence of tokens")
        if z_column is not None and isinstance(data, Mapping) and len(data[z_column]) != self.n:
            raise ValueError(f"{z_column!r} has {len(data[z_column])} sequences, but input_ids has {self.n}")

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for i in range(len(self)):
            yield self[i]

    def __getitem__(self, i: int) -> Batch:
        if not 0 <= i < len(self):
            raise IndexError(i)
        rows = slice(i * self.batch_size, (i + 1) * self.batch_size)
        if isinstance(self.data, Mapping):
            part = {name: self.data[name][rows] for name in self._columns()}
        else:
            read = self.data[rows]
            part = {name: read[name] for name in self._columns()}
        for name in self._columns()[1:]:
            _require_lengths(part["input_ids"], part[name], name, first=i * self.batch_size)
        columns = {name: _padded(part[name], name, UNLABELLED if name == self.z_column else 0) for name in part}
        ids, mask = columns["input_ids"], columns.get("attention_mask")
        if self.vocabulary is not None and ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary:
            raise ValueError(
                f"input_ids go from {int(ids.min())} to {int(ids.max())}, but the model knows 0 … "
                f"{self.vocabulary - 1}: use its own tokeniser"
            )
        if mask is None:
            mask = _lengths_mask(part["input_ids"])
        elif mask.numel() and not 0 <= int(mask.min()) <= int(mask.max()) <= 1:
            raise ValueError(f"attention_mask goes from {int(mask.min())} to {int(mask.max())}, but must be 0 or 1")
        z = None if self.z_column is None else columns[self.z_column].to(self.device)
        return Batch(ids.to(self.device), mask.to(self.device), z)

    def _columns(self) -> list[str]:
        names = ["input_ids", *(["attention_mask"] if self.masked else [])]
        return names if self.z_column is None else [*names, self.z_column]

    def n_labels(self) -> int:
        """Count the classes: those of a `datasets` class label, or one more than the largest label.

        Raises:
            ValueError: no token has a label, or labels are numbered far beyond their number.
        """
        feature = getattr(self.data, "features", {}).get(self.z_column)
        declared = getattr(getattr(feature, "feature", None), "num_classes", None)
        largest, labelled = -1, 0
        for batch in self if declared is None else ():
            assert batch.z is not None
            largest = max(largest, int(torch.where(batch.labelled, batch.z, -1).max()))
            labelled += int(batch.labelled.sum())
        if largest >= max(1000, 10 * labelled):
            raise ValueError(f"{self.z_column!r} has {labelled} labels up to {largest}: number the classes 0 … K − 1")
        count = largest + 1 if declared is None else int(declared)
        if count == 0:
            raise ValueError(f"{self.z_column!r} labels no token: at least one label must be 0 or more")
        return count


def _require_lengths(ids: Any, column: Any, name: str, *, first: int) -> None:
    """Check that a column has as many values as tokens in each sequence; `first` is the number of the first one."""
    for i, (tokens, values) in enumerate(zip(ids, column, strict=True), first):
        count = len(values) if getattr(values, "ndim", hasattr(values, "__len__")) else 1
        if len(tokens) != count:
            raise ValueError(
                f"sequence {i} has {len(tokens)} tokens, but {count} values in {name!r}: give each token one; "
                "a label is negative where there is none"
            )


def _padded(rows: Any, name: str, fill: int) -> Tensor:
    """Pad rows of integers on the right; whole numbers of another dtype are taken, booleans only as a mask."""
    if isinstance(rows, Tensor) and rows.ndim == 2:
        return _integers(rows, name)
    parts = [_integers(as_tensor(row, repr(name)), name) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=fill)


def _integers(values: Tensor, name: str) -> Tensor:
    whole = values.long()
    if (values.dtype == torch.bool and name != "attention_mask") or not bool((whole == values).all()):
        raise ValueError(f"{name!r} has values of {values.dtype} that are no integers")
    return whole


def _lengths_mask(rows: Any) -> Tensor:
    lengths = torch.tensor([len(row) for row in rows])
    return (torch.arange(int(lengths.max())) < lengths[:, None]).long()
