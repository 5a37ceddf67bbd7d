"""Texts as vectors: the states of a pretrained model of `transformers`, one vector for each text."""

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from efface.data.text import some
from efface.devices import resolve_device
from efface.hub import dtype_argument, folder_digest, hub_commit, in_package, read_pretrained

Pooling = Literal["mean", "cls", "last"]
_ADVICE = "a folder with a model and its tokeniser"


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """The tokeniser of a pretrained model, read when it is needed.

    Args:
        path: a folder, the name of a model on the hub, or `package:<package>/<folder>` for one inside an installed
            Python package. Its own code is never run.
        revision: a branch, a tag or a commit of the hub; None for the branch `main`.
        max_length: tokens of a text that are read, or fewer if the model takes fewer.
        option: how messages call the path.
    """

    path: str
    revision: str | None
    max_length: int
    option: str = "tokenizer"

    def digest(self) -> str:
        """Return a digest of the folder, or the commit on the hub.

        Raises:
            ValueError: there is no such model, or a folder is asked for a revision.
        """
        where = Path(in_package(self.path)).expanduser()
        if not where.is_dir():
            return hub_commit(self.path, self.revision)
        if self.revision is not None:
            raise ValueError(f"revision is {self.revision}, but {self.path} is a folder, which has none: leave it out")
        return folder_digest(where)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Return the token ids and the mask of each text, int64 `[n, 2, t]`, padded to the longest one.

        Raises:
            ValueError: the tokeniser cannot be loaded, or the model of its folder cannot tell its length.
        """
        from transformers import AutoConfig

        tokenizer = self._tokenizer()
        config = read_pretrained(AutoConfig, self._where(), option=self.option, advice=_ADVICE)
        tokens = tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._length(tokenizer, config), return_tensors="pt"
        )
        return torch.stack([tokens.input_ids, tokens.attention_mask], 1)

    def _where(self) -> dict[str, Any]:
        """Return what `from_pretrained` is called with."""
        folder = Path(in_package(self.path)).expanduser()
        where: dict[str, Any] = {"pretrained_model_name_or_path": folder if folder.is_dir() else self.path}
        where["trust_remote_code"] = False
        if not folder.is_dir():
            where["revision"] = self.digest()  # that commit, and no later one that the hub may have by now
        return where

    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        tokenizer = read_pretrained(AutoTokenizer, self._where(), option=self.option, advice=_ADVICE)
        if tokenizer.pad_token is None:  # GPT-2 and others were never shown two texts at once
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def _length(self, tokenizer: Any, config: Any) -> int:
        """Return the tokens of a text that are read; ValueError if none of them is of the text."""
        limits = (self.max_length, tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
        length, special = min(limit for limit in limits if limit is not None), tokenizer.num_special_tokens_to_add()
        if length <= special:
            raise ValueError(
                f"max_length: {length} tokens of a text are read, and {self.path} puts {special} of its own around "
                "each: raise it"
            )
        return int(length)


@dataclass(frozen=True, kw_only=True)
class Encoder(Tokenizer):
    """A pretrained model and its tokeniser, read when they are needed.

    Args:
        path, revision, max_length: see `Tokenizer`.
        pooling: `mean` of the states of a text's tokens, or the state of its first (`cls`) or `last` token.
        batch_size: texts at a time.
    """

    pooling: Pooling
    batch_size: int
    option: str = "encoder"

    def states(self, texts: Sequence[str]) -> Tensor:
        """Return the states of the last layer, pooled, `[n, d]` float32; on CUDA where it is.

        Raises:
            ValueError: the model cannot be loaded, lacks weights, or gives states that are not finite.

        Cost: one pass of the model; memory for the result and one batch.
        """
        tokenizer, model = self._read()
        device = resolve_device("auto")
        model.to(device).eval()
        length = self._length(tokenizer, model.config)
        # Of like length together, so that little is computed on padding; the longest first, to fail early.
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        main = multiprocessing.parent_process() is None
        x = torch.empty(0)
        with (
            torch.inference_mode(),
            tqdm(total=len(texts), desc="encode", unit="text", disable=None if main else True, leave=False) as bar,
        ):
            for start in range(0, len(texts), self.batch_size):
                rows = order[start : start + self.batch_size]
                tokens = tokenizer(
                    [texts[i] for i in rows], padding=True, truncation=True, max_length=length, return_tensors="pt"
                ).to(device)
                states = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
                pooled = pool(states, tokens.attention_mask, self.pooling).float().cpu()
                x = x if len(x) else torch.empty(len(texts), pooled.shape[1])
                x[rows] = pooled
                bar.update(len(rows))
        if not bool(x.isfinite().all()):
            raise ValueError(f"encoder: {self.path} gives states that are NaN or infinite: give another model")
        return x.clone()

    def _read(self) -> tuple[Any, nn.Module]:
        """Read the tokeniser and the model."""
        from transformers import AutoModel

        tokenizer = self._tokenizer()
        say = {"option": self.option, "advice": _ADVICE}
        model, report = read_pretrained(
            AutoModel, self._where(), output_loading_info=True, **dtype_argument(torch.float32), **say
        )
        missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
        if missing:
            raise ValueError(
                f"{self.option}: {self.path} lacks the weights {some(missing)}, which would be drawn at random: "
                "give the whole model"
            )
        return tokenizer, model.get_encoder() if model.config.is_encoder_decoder else model


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Make one vector of the states of each text, on whichever side it is padded.

    Args:
        states: `[n, t, d]`.
        mask: `[n, t]`, 1 where there is a token.
        pooling: see `Encoder`.

    Returns:
        `[n, d]`.
    """
    if pooling == "mean":
        weight = mask[..., None].to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1)
    places = torch.arange(mask.shape[1], device=mask.device)
    chosen = mask.argmax(1) if pooling == "cls" else (mask * places).argmax(1)
    return states[torch.arange(len(states), device=states.device), chosen]
