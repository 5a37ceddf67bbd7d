"""The places of blocks, normalisations and the layers behind them in each family of `transformers`.

A further family is an entry of `FAMILIES`, or is passed to `scrub(..., family=...)`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Site:
    """A module inside a block behind which a concept is erased."""

    path: str
    """Path from the block."""
    consumers: tuple[str, ...] = ()
    """Paths from the block of the linear layers that alone read the module's output. Empty if something else reads it
    too, such as the residual stream: an eraser there cannot become part of weights."""
    sublayer: bool = False
    """Whether it is inside the block, and not at its input; see `sublayers` of `scrub`."""
    bias_flag: str | None = None
    """The setting of the model's configuration that says whether the consumers have biases; None if there is none."""
    biased_too: tuple[str, ...] = ()
    """Other linear layers of the block that get biases with that setting."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Paths from the base model, which is the model without its head."""

    blocks: str
    """Path of the list of blocks, which run one after the other and pass hidden states on as their first argument."""
    sites: tuple[Site, ...]
    """The sites of a block, in the order in which they run."""
    before: tuple[str, ...] = ()
    """Modules that run before the first block, whose output is the first block's input as it is."""
    behind: str = ""
    """The normalisation behind the last block; empty if there is none, and the last site is the model's output."""
    causal: bool = True
    """Whether a token sees only those before it, and the head predicts the next."""

    def paths(self, model: nn.Module, *, sublayers: bool = True) -> list[str]:
        """List the paths of all sites of a model, in the order in which they run."""
        inside = [site for site in self.sites if sublayers or not site.sublayer]
        blocks = range(len(self.block_list(model)))
        return [*self.before, *(f"{self.blocks}.{i}.{site.path}" for i in blocks for site in inside)]

    def output(self, model: nn.Module) -> str:
        """Return the path of the module whose output is the model's, and what an output layer reads."""
        return self.behind or self.paths(model)[-1]

    def block_list(self, model: nn.Module) -> nn.ModuleList:
        """Find the blocks of a model.

        Raises:
            ValueError: they are not where this description says.
        """
        blocks = submodule(base_model(model), self.blocks)
        if not isinstance(blocks, nn.ModuleList):
            raise ValueError(
                f"family.blocks is {self.blocks!r}, which is a {type(blocks).__name__}, not a list of blocks"
            )
        return blocks

    def block_sites(self, model: nn.Module) -> Iterator[tuple[str, nn.Module, Site]]:
        """Iterate over the path, block and description of every site that lies in a block."""
        for i, block in enumerate(self.block_list(model)):
            for site in self.sites:
                yield f"{self.blocks}.{i}.{site.path}", block, site


def base_model(model: nn.Module) -> nn.Module:
    """Return the model without its head: `base_model` of a `transformers` model, else the module itself."""
    return getattr(model, "base_model", model)


def submodule(module: nn.Module, path: str) -> nn.Module:
    """Find the module at a path.

    Raises:
        ValueError: there is none; the message names similar paths.
    """
    try:
        return module.get_submodule(path)
    except AttributeError:
        import difflib

        names = [name for name, _ in module.named_modules()]
        close = ", ".join(difflib.get_close_matches(path, names, 3, 0.5)) or ", ".join(n for n in names if n)[:200]
        raise ValueError(f"no module {path!r} in {type(module).__name__}: did you mean {close}?") from None


def _llama(
    *, attention_flag: str | None = None, mlp_flag: str | None = None, mlp_norm: str = "post_attention_layernorm"
) -> Family:
    return Family(
        blocks="layers",
        behind="norm",
        sites=(
            Site(
                path="input_layernorm",
                consumers=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                bias_flag=attention_flag,
                biased_too=("self_attn.o_proj",),
            ),
            Site(
                path=mlp_norm,
                consumers=("mlp.gate_proj", "mlp.up_proj"),
                sublayer=True,
                bias_flag=mlp_flag,
                biased_too=("mlp.down_proj",),
            ),
        ),
    )


FAMILIES: dict[str, Family] = {
    "llama": _llama(attention_flag="attention_bias", mlp_flag="mlp_bias"),
    "gemma": _llama(attention_flag="attention_bias"),
    # From the second Gemma on, the output of the attention is normalised too.
    "gemma2": _llama(attention_flag="attention_bias", mlp_norm="pre_feedforward_layernorm"),
    "gemma3_text": _llama(attention_flag="attention_bias", mlp_norm="pre_feedforward_layernorm"),
    "mistral": _llama(),
    "qwen2": _llama(),
    "qwen3": _llama(attention_flag="attention_bias"),
    "gpt_neox": Family(
        blocks="layers",
        behind="final_layer_norm",
        sites=(
            Site(
                path="input_layernorm",
                consumers=("attention.query_key_value",),
                bias_flag="attention_bias",
                biased_too=("attention.dense",),
            ),
            Site(path="post_attention_layernorm", consumers=("mlp.dense_h_to_4h",), sublayer=True),
        ),
    ),
    "gpt2": Family(
        blocks="h",
        behind="ln_f",
        sites=(
            Site(path="ln_1", consumers=("attn.c_attn",)),
            Site(path="ln_2", consumers=("mlp.c_fc",), sublayer=True),
        ),
    ),
    # Normalisations come last here, and their output is the residual stream: nothing can be folded.
    "bert": Family(
        blocks="encoder.layer",
        causal=False,
        before=("embeddings.LayerNorm",),
        sites=(Site(path="attention.output.LayerNorm", sublayer=True), Site(path="output.LayerNorm")),
    ),
}
"""The known families, by `model.config.model_type`."""


def family_of(model: nn.Module) -> Family:
    """Look up the description of a model's family.

    Raises:
        ValueError: it is not known; the message shows how to describe it.
    """
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", type(model).__name__)
    if kind not in FAMILIES:
        raise ValueError(
            f"model is of the family {kind!r}, of which only {', '.join(sorted(FAMILIES))} are described: give "
            "family=Family(blocks='path of its list of blocks', sites=(Site(path='path of a normalisation in a block', "
            "consumers=('paths of the linear layers behind it',)), ...))"
        )
    return FAMILIES[kind]
