"""Language models with their tokenisers: from a folder or hub, or small ones trained on the text at hand.

`transformers` is imported when it is needed: `pip install 'efface[scrub]'`.
"""

import importlib.util
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from efface.data.conllu import Document, TaggedText
from efface.data.text import some
from efface.extras import require
from efface.hub import dtype_argument, folder_digest, hub_commit, in_package, read_pretrained
from efface.options import Ge, Gt, Le, options
from efface.scrubbing.bpe import train_bpe
from efface.scrubbing.families import FAMILIES
from efface.scrubbing.tokens import Batches, Encode, TokenData, predicted, token_nats, tokenise

Trained = tuple[dict[str, Tensor], dict[str, Any]]
"""Weights, and facts that JSON can hold."""
Head = Literal["causal", "masked", "none"]
"""Predicts the next token, or hidden ones; none: states alone."""
Cached = Callable[[Callable[[], Trained]], Trained]
"""Calls its argument, or returns an earlier result of it from the cache."""


@dataclass(frozen=True)
class LanguageModel:
    """A model with its tokeniser."""

    model: nn.Module
    """A model of `transformers`, in evaluation mode."""
    encode: Encode
    prefix: tuple[int, ...]
    """Special tokens before each sequence."""
    suffix: tuple[int, ...]
    """Special tokens after each sequence."""
    pad: int
    max_length: int
    facts: dict[str, Any] = field(default_factory=dict)
    """Facts for the record."""
    head: Head = "causal"
    mask: int | None = None
    """The token that stands for a hidden one, where the head is masked."""

    def tokenise(self, documents: Sequence[Document], tags: Sequence[str]) -> TokenData:
        """Cut labelled documents into sequences of labelled tokens."""
        return tokenise(
            documents,
            tags,
            self.encode,
            max_length=self.max_length,
            prefix=self.prefix,
            suffix=self.suffix,
            pad=self.pad,
        )


class ModelSource(Protocol):
    """The class that a language model's configuration names."""

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
        """Load the model, or train it on `text.train`, through `cached`."""
        ...


@options
class LmTraining:
    """Next-token training by AdamW, the learning rate rising over a twentieth of the steps, then falling as a cosine.

    Args:
        epochs: passes over train.
        lr: the highest learning rate.
        batch_size: sequences in a step.
        weight_decay: weight decay of matrices; vectors have none.
    """

    epochs: Annotated[int, Ge(0)] = 4
    lr: Annotated[float, Gt(0)] = 3e-3
    batch_size: Annotated[int, Ge(1)] = 16
    weight_decay: Annotated[float, Ge(0)] = 0.1

    def fit(self, model: Any, train: TokenData, *, seed: int, device: str, progress: bool) -> list[dict[str, float]]:
        """Train `model` in place; return the mean loss of each epoch, in nats for each token.

        Raises:
            FloatingPointError: the loss is no longer finite.
        """
        model.to(device).train()
        steps = self.epochs * math.ceil(len(train) / self.batch_size)
        optimizer, schedule = self._optimizer(model, steps)
        generator = torch.Generator().manual_seed(seed)
        history: list[dict[str, float]] = []
        with tqdm(total=steps, desc="train", unit="batch", disable=None if progress else True, leave=False) as bar:
            for epoch in range(self.epochs):
                total, count = torch.zeros((), device=device), 0
                for rows in torch.randperm(len(train), generator=generator).split(self.batch_size):
                    nats, n = _loss(model, train.rows(rows), device)
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

    def _optimizer(
        self, model: nn.Module, steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Make AdamW and its schedule."""
        matrices = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.95), fused=True)
        warm = max(steps // 20, 1)

        def factor(step: int) -> float:
            cosine = 0.5 * (1 + math.cos(math.pi * max(step - warm, 0) / max(steps - warm, 1)))
            return min((step + 1) / warm, cosine)

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _loss(model: Any, sequences: TokenData, device: str) -> tuple[Tensor, int]:
    """Compute the summed loss of the predicted tokens, in nats, and their number; padding is cut off."""
    length = int(sequences.attention_mask.sum(1).max())
    columns = {name: column[:, :length] for name, column in sequences.columns().items()}
    batch = Batches(columns, None, len(sequences), device)[0]
    nats = token_nats(model(input_ids=batch.input_ids, use_cache=False).logits, batch).sum()
    return nats, int(predicted(batch).sum())


@options
class NoTraining:
    """Uses the model as it is."""


@options
class TinyModel:
    """A small language model, and a byte-level BPE tokeniser, both trained on the text at hand.

    Args:
        architecture: a family of `transformers` whose head predicts the next token.
        hidden_size, layers, heads, intermediate_size: the size of the model.
        vocab_size: number of tokens, of which 256 are single bytes and two are special.
        max_length: tokens in a sequence.
    """

    architecture: str
    hidden_size: Annotated[int, Ge(1), Le(65_536)] = 128
    layers: Annotated[int, Ge(1), Le(1000)] = 4
    heads: Annotated[int, Ge(1), Le(65_536)] = 4
    intermediate_size: Annotated[int, Ge(1), Le(65_536)] = 384
    vocab_size: Annotated[int, Ge(258), Le(1_000_000)] = 1024
    max_length: Annotated[int, Ge(2), Le(1_000_000)] = 128

    def __post_init__(self) -> None:
        known = sorted(name for name, family in FAMILIES.items() if family.causal)
        if self.architecture not in known:
            raise ValueError(f"architecture is {self.architecture!r}, but must be one of {', '.join(known)}")
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size={self.hidden_size}, heads={self.heads}: heads must divide hidden_size")

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
            self.architecture,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            intermediate_size=self.intermediate_size,
            vocab_size=self.vocab_size,
            max_position_embeddings=self.max_length,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
        )
        torch.manual_seed(seed)
        return auto.from_config(config)

    def _with(self, model: nn.Module, vocabulary: str, facts: dict[str, Any]) -> LanguageModel:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(vocabulary)

        def encode(text: str) -> tuple[list[int], list[tuple[int, int]]]:
            encoded = tokenizer.encode(text, add_special_tokens=False)
            return encoded.ids, encoded.offsets

        return LanguageModel(model, encode, (0,), (), 1, self.max_length, facts)


@options
class PretrainedModel:
    """A model and tokeniser that `transformers` can load.

    Args:
        path: a folder, the name of a model on the hub, or `package:<package>/<folder>` for one inside an installed
            Python package.
        revision: a branch, a tag or a commit of the hub; None for the branch `main`.
        gguf_file: a file in the folder or repository `path` in llama.cpp's format, whose quantised weights are made
            float ones (needs the packages gguf and accelerate); None for the usual files.
        head: `causal` or `masked` with its language-modelling head, or `none`: states and probes only.
        dtype: `float32`, `bfloat16` or `float16`.
        device_map: None for the run's device; `auto` spreads the model over all devices (needs `accelerate`).
        max_length: tokens in a sequence.
    """

    path: str
    revision: str | None = None
    gguf_file: str | None = None
    head: Head = "causal"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device_map: str | None = None
    max_length: Annotated[int, Ge(3)] = 256

    def fingerprint(self, cache_dir: Path) -> str:
        where = in_package(self.path)
        if not Path(where).is_dir():
            return hub_commit(where, self.revision)
        if self.revision is not None:
            raise ValueError(f"revision is {self.revision}, but {self.path} is a folder, which has none: leave it out")
        return folder_digest(Path(where), cache_dir)

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
        if not isinstance(training, NoTraining):
            raise ValueError("training: a pretrained model is taken as it is: use training=none")
        tokenizer, model = self._read()
        if not tokenizer.is_fast:
            raise ValueError(f"path: the tokeniser of {self.path} does not say which characters its tokens stand for")
        if self.device_map is None:
            model.to(device)

        def encode(string: str) -> tuple[list[int], list[tuple[int, int]]]:
            encoded = tokenizer(string, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            return encoded["input_ids"], [(start, end) for start, end in encoded["offset_mapping"]]

        if self.head == "masked" and tokenizer.mask_token_id is None:
            raise ValueError(f"head is masked, but the tokeniser of {self.path} has no mask token: use head=causal")
        first = tokenizer.bos_token_id if self.head == "causal" else tokenizer.cls_token_id
        last = None if self.head == "causal" else tokenizer.sep_token_id
        prefix, suffix = (() if token is None else (int(token),) for token in (first, last))
        return LanguageModel(
            model.eval(),
            encode,
            prefix,
            suffix,
            tokenizer.pad_token_id or 0,
            self.max_length,
            head=self.head,
            mask=tokenizer.mask_token_id,
        )

    def _read(self) -> tuple[Any, Any]:
        """Read the tokeniser and the model."""
        from transformers import AutoConfig, AutoTokenizer

        path = in_package(self.path)
        arguments = dtype_argument(getattr(torch, self.dtype))
        if self.device_map is not None:
            arguments["device_map"] = self.device_map
        # A model's own code is not run, and nobody is asked whether it may be.
        where = {"pretrained_model_name_or_path": path, "trust_remote_code": False}
        # The commit of the fingerprint, and no later one that the hub may have by now.
        where |= {} if Path(path).is_dir() else {"revision": hub_commit(path, self.revision)}
        if self.gguf_file is not None:
            require("gguf", "accelerate", extra="scrub", what="gguf_file")
            where["gguf_file"] = self.gguf_file
        say = {"option": "path", "advice": "a folder with a model and its tokeniser"}
        tokenizer = read_pretrained(AutoTokenizer, where, **say)
        for auto in self._classes(read_pretrained(AutoConfig, where, **say).model_type):
            model, report = read_pretrained(auto, where, output_loading_info=True, **arguments, **say)
            if not any("seq_relationship" in name for name in report["missing_keys"]):
                break
        self._require_whole(model, report)
        return tokenizer, model

    def _classes(self, family: str) -> list[Any]:
        """Return the classes to read the model with: a later one if the checkpoint lacks the second head of the first.

        BERT's second head says whether one sentence follows another.
        """
        from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForPreTraining

        if self.head == "masked":
            return [*([AutoModelForPreTraining] if family == "bert" else []), AutoModelForMaskedLM]
        return [AutoModelForCausalLM if self.head == "causal" else AutoModel]

    def _require_whole(self, model: nn.Module, report: Mapping[str, Any]) -> None:
        """Check that all weights were read, and are numbers: `transformers` draws those at random that it lacks."""
        missing = sorted(name for name in report["missing_keys"] if not (self.head == "none" and "pooler" in name))
        if missing:
            raise ValueError(
                f"path: {self.path} lacks the weights {some(missing)}, which would be drawn at random: give the whole "
                "model, or head=none for one without a language-modelling head"
            )
        broken = [
            name for name, p in model.named_parameters() if p.device.type != "meta" and not bool(p.isfinite().all())
        ]
        if broken:
            raise ValueError(f"path: {self.path} has NaN or infinite weights in {some(broken)}: give another model")


def require_transformers() -> None:
    """Check that `transformers` is installed.

    Raises:
        ModuleNotFoundError: it is not; the message says how to install it.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ModuleNotFoundError("language models need transformers: pip install 'efface[scrub]'")
