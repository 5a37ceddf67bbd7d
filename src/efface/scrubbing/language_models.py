"""Language models with their tokenisers: from a folder or hub, or small ones trained on the text at hand.

`transformers` is imported when it is needed: `pip install 'efface[scrub]'`.
"""

import importlib.util
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from efface.data.conllu import Document, TaggedText
from efface.scrubbing.families import FAMILIES
from efface.scrubbing.tokens import Batches, Encode, TokenData, predicted, token_nats, tokenise
from efface.scrubbing.weights import folder_digest, hub_commit

Trained = tuple[dict[str, Tensor], dict[str, Any]]
"""Weights, and facts that JSON can hold."""
Cached = Callable[[Callable[[], Trained]], Trained]
"""Calls what it is given, or returns what that returned before."""


@dataclass(frozen=True)
class LanguageModel:
    """A model and how text becomes what it reads."""

    model: nn.Module
    """Of `transformers`, in evaluation mode."""
    encode: Encode
    prefix: tuple[int, ...]
    """Special tokens before each sequence."""
    suffix: tuple[int, ...]
    """Special tokens after each sequence."""
    pad: int
    max_length: int
    facts: dict[str, Any] = field(default_factory=dict)
    """What a record tells of it."""

    def tokenise(self, documents: Sequence[Document], tags: Sequence[str]) -> TokenData:
        """Labelled documents as sequences of labelled tokens."""
        return tokenise(
            documents, tags, self.encode, max_length=self.max_length, prefix=self.prefix, suffix=self.suffix,
            pad=self.pad,
        )  # fmt: skip


class ModelSource(Protocol):
    """What a configuration of a language model describes."""

    def fingerprint(self, cache_dir: Path) -> str:
        """Return a digest of the files that the model is read from; empty if it is trained here."""
        ...

    def load(
        self,
        text: TaggedText,
        training: "LmTraining | NoTraining",
        *,
        seed: int,
        device: str,
        cached: Cached,
        progress: bool,
    ) -> LanguageModel:
        """The model, trained on `text.train` if it is not there yet, through `cached`."""
        ...


@dataclass(frozen=True, kw_only=True)
class LmTraining:
    """Next-token training by AdamW, the learning rate rising over a twentieth of the steps, then falling as a cosine.

    Args:
        epochs: passes over train.
        lr: the highest learning rate.
        batch_size: sequences in a step.
        weight_decay: of matrices.
    """

    epochs: int = 5
    lr: float = 3e-3
    batch_size: int = 16
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.lr <= 0 or self.batch_size < 1 or self.weight_decay < 0:
            raise ValueError(
                f"epochs={self.epochs}, lr={self.lr}, batch_size={self.batch_size}, weight_decay={self.weight_decay}: "
                "lr and batch_size must be positive, the others not negative"
            )

    def fit(self, model: Any, train: TokenData, *, seed: int, device: str, progress: bool) -> list[dict[str, float]]:
        """Train `model` in place; the mean loss of each epoch, in nats for each token.

        Raises:
            FloatingPointError: the loss is no longer finite.
        """
        model.to(device).train()
        matrices = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.95), fused=True)
        steps = self.epochs * math.ceil(len(train) / self.batch_size)
        warm = max(steps // 20, 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda i: min((i + 1) / warm, 0.5 * (1 + math.cos(math.pi * max(i - warm, 0) / max(steps - warm, 1)))),
        )
        generator = torch.Generator().manual_seed(seed)
        history: list[dict[str, float]] = []
        with tqdm(total=steps, desc="train", unit="batch", disable=None if progress else True, leave=False) as bar:
            for epoch in range(self.epochs):
                total, count = torch.zeros((), device=device), 0
                for rows in torch.randperm(len(train), generator=generator).split(self.batch_size):
                    part = train.rows(rows)
                    length = int(part.attention_mask.sum(1).max())
                    columns = {name: column[:, :length] for name, column in part.columns().items()}
                    batch = Batches(columns, None, len(rows), device)[0]
                    nats = token_nats(model(input_ids=batch.input_ids, use_cache=False).logits, batch).sum()
                    n = int(predicted(batch).sum())
                    optimizer.zero_grad(set_to_none=True)
                    (nats / n).backward()
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    total, count = total + nats.detach(), count + n
                    bar.update()
                loss = float(total) / count
                if not math.isfinite(loss):
                    raise FloatingPointError(
                        f"training diverged: the loss is {loss} with lr={self.lr}; lower training.lr"
                    )
                history.append({"epoch": epoch, "loss": loss})
                bar.set_postfix(loss=f"{loss:.3f}")
        model.eval()
        return history


@dataclass(frozen=True)
class NoTraining:
    """The model is taken as it is."""


@dataclass(frozen=True, kw_only=True)
class TinyModel:
    """A small language model, and a byte-level BPE tokeniser, both trained on the text at hand.

    Args:
        architecture: a family of `transformers` whose head predicts the next token.
        hidden_size, layers, heads, intermediate_size: its size.
        vocab_size: tokens, of which 256 are single bytes.
        max_length: tokens in a sequence.
    """

    architecture: str
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 512
    vocab_size: int = 1024
    max_length: int = 128

    def __post_init__(self) -> None:
        known = sorted(name for name, family in FAMILIES.items() if family.causal)
        if self.architecture not in known:
            raise ValueError(f"architecture is {self.architecture!r}, but must be one of {', '.join(known)}")
        if self.hidden_size % self.heads or self.vocab_size < 258:
            raise ValueError(
                f"hidden_size={self.hidden_size}, heads={self.heads}, vocab_size={self.vocab_size}: heads must divide "
                "hidden_size, and vocab_size be at least 258, for bytes and two special tokens"
            )

    def fingerprint(self, cache_dir: Path) -> str:
        return ""

    def load(
        self,
        text: TaggedText,
        training: LmTraining | NoTraining,
        *,
        seed: int,
        device: str,
        cached: Cached,
        progress: bool,
    ) -> LanguageModel:
        require_transformers()
        if isinstance(training, NoTraining):
            raise ValueError(f"training: a tiny {self.architecture} has to be trained: use training=lm")
        model = self._model(seed)

        def train() -> Trained:
            start = time.perf_counter()
            vocabulary = train_bpe([document.text for document in text.train], self.vocab_size)
            tokens = self._with(model, vocabulary, {}).tokenise(text.train, text.tags)
            history = training.fit(model, tokens, seed=seed, device=device, progress=progress)
            facts = {"tokenizer": vocabulary, "history": history, "seconds": time.perf_counter() - start}
            return dict(model.state_dict()), facts

        tensors, facts = cached(train)
        model.load_state_dict(tensors)
        about = {"history": facts["history"], "training_seconds": facts["seconds"]}
        return self._with(model.to(device).eval(), facts["tokenizer"], about)

    def _model(self, seed: int) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        auto: Any = AutoModelForCausalLM
        config = AutoConfig.for_model(
            self.architecture, hidden_size=self.hidden_size, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, num_key_value_heads=self.heads, intermediate_size=self.intermediate_size,
            vocab_size=self.vocab_size, max_position_embeddings=self.max_length, tie_word_embeddings=False,
            bos_token_id=0, eos_token_id=0, pad_token_id=1,
        )  # fmt: skip
        torch.manual_seed(seed)
        return auto.from_config(config)

    def _with(self, model: nn.Module, vocabulary: str, facts: dict[str, Any]) -> LanguageModel:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(vocabulary)

        def encode(text: str) -> tuple[list[int], list[tuple[int, int]]]:
            encoded = tokenizer.encode(text, add_special_tokens=False)
            return encoded.ids, encoded.offsets

        return LanguageModel(model, encode, (0,), (), 1, self.max_length, facts)


@dataclass(frozen=True, kw_only=True)
class PretrainedModel:
    """A model and tokeniser that `transformers` can load.

    Args:
        path: a folder, the name of a model on the hub, or `package:<package>/<folder>` for one inside an installed
            Python package.
        head: `causal` with its language-modelling head, or `none`: states and probes only.
        dtype: `float32`, `bfloat16` or `float16`.
        device_map: None for the run's device; `auto` spreads it over all there are (needs `accelerate`).
        max_length: tokens in a sequence.
    """

    path: str
    head: Literal["causal", "none"] = "causal"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device_map: str | None = None
    max_length: int = 256

    def __post_init__(self) -> None:
        if self.head not in ("causal", "none"):
            raise ValueError(f"head is {self.head!r}, but must be 'causal' or 'none'")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype is {self.dtype!r}, but must be 'float32', 'bfloat16' or 'float16'")

    def fingerprint(self, cache_dir: Path) -> str:
        where = _in_package(self.path)
        return folder_digest(Path(where), cache_dir) if Path(where).is_dir() else hub_commit(where)

    def load(
        self,
        text: TaggedText,
        training: LmTraining | NoTraining,
        *,
        seed: int,
        device: str,
        cached: Cached,
        progress: bool,
    ) -> LanguageModel:
        require_transformers()
        import transformers
        from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

        if not isinstance(training, NoTraining):
            raise ValueError("training: a pretrained model is taken as it is: use training=none")
        where = _in_package(self.path)
        # The name of the argument changed; the old one warns in new versions and the new one is unknown to old ones.
        named = "dtype" if _version(transformers.__version__) >= (4, 56) else "torch_dtype"
        options: dict[str, Any] = {named: getattr(torch, self.dtype)}
        if self.device_map is not None:
            options["device_map"] = self.device_map
        auto: Any = AutoModelForCausalLM if self.head == "causal" else AutoModel
        # That of the fingerprint, and no later one that the hub has meanwhile.
        pinned = {} if Path(where).is_dir() else {"revision": hub_commit(where)}
        options |= pinned
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, **pinned)
            model = auto.from_pretrained(where, **options)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"path: {self.path} cannot be loaded ({str(error).splitlines()[0]}): give a folder with a model and "
                "its tokeniser, or a name on the hub that can be reached from here"
            ) from error
        if not tokenizer.is_fast:
            raise ValueError(f"path: the tokeniser of {self.path} does not say which characters its tokens stand for")
        if self.device_map is None:
            model.to(device)

        def encode(string: str) -> tuple[list[int], list[tuple[int, int]]]:
            encoded = tokenizer(string, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            return encoded["input_ids"], [(start, end) for start, end in encoded["offset_mapping"]]

        first = tokenizer.bos_token_id if self.head == "causal" else tokenizer.cls_token_id
        last = None if self.head == "causal" else tokenizer.sep_token_id
        prefix, suffix = (() if token is None else (int(token),) for token in (first, last))
        return LanguageModel(model.eval(), encode, prefix, suffix, tokenizer.pad_token_id or 0, self.max_length)


def train_bpe(texts: Sequence[str], vocab_size: int) -> str:
    """A byte-level BPE tokeniser as JSON; tokens 0 and 1 are the beginning of a sequence and padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<s>", "<pad>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return json.dumps(json.loads(tokenizer.to_str()))


def require_transformers() -> None:
    """ModuleNotFoundError, with what to install, where `transformers` is missing."""
    if importlib.util.find_spec("transformers") is None:
        raise ModuleNotFoundError("language models need transformers: pip install 'efface[scrub]'")


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _in_package(path: str) -> str:
    """The folder that `package:<package>/<folder>` names; other paths as they are."""
    if not path.startswith("package:"):
        return path
    package, _, folder = path.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f"path: no package {package} is installed: pip install {package.replace('_', '-')}")
    return str(Path(spec.origin).parent / folder)
