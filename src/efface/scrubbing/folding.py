"""Erasers as part of weights: W r(x) + c = (W P) x + (c + W (I − P) b), exact where only linear layers read r(x)."""

from typing import Any

import torch
from torch import nn

from efface.erasure.affine import AffineEraser
from efface.scrubbing.families import Family, Site, family_of, submodule
from efface.scrubbing.scrubber import ConceptScrubber


@torch.no_grad()
def fold(scrubber: ConceptScrubber, model: nn.Module, *, family: Family | None = None) -> None:
    """Merge erasers into the linear layers behind them, in place and in float64. The model then needs no hooks.

    An eraser that keeps the mean needs a bias. Where the layers have none but the model's configuration has a setting
    for them (LLaMA: `attention_bias`, `mlp_bias`), they are made, in all blocks, and the setting is turned on, so that
    the model can be saved and loaded as usual.

    Args:
        scrubber: a scrubber whose erasers act behind sites that the family describes.
        model: a model of a known family, or of `family`.
        family: the places of blocks and normalisations, if the model's family is not known.

    Raises:
        ValueError: it would not be exact, or a bias would have no place. The model is then unchanged.
    """
    family = family_of(model) if family is None else family
    sites = {path: (block, site) for path, block, site in family.block_sites(model)}
    if scrubber.pre_hook:
        raise ValueError("pre_hook is on: erasure before a normalisation is not linear behind it; apply hooks")
    config: Any = getattr(model, "config", None)
    for path, eraser in scrubber.erasers.items():
        if path not in sites:
            raise ValueError(
                f"{path!r} is no site that can be folded in this family; those are in its blocks: {[*sites]}"
            )
        _check(path, *sites[path], eraser, config)
    flags = set()
    for path, eraser in scrubber.erasers.items():
        block, site = sites[path]
        for name in site.consumers:
            layer: Any = submodule(block, name)
            if eraser.bias is not None and layer.bias is None:
                flags.add(site.bias_flag)
                _add_bias(layer)
            _merge(layer, eraser)
    for flag in flags:
        assert flag is not None
        # The setting holds for the whole model, so every layer that it names must get a bias.
        for block, site in sites.values():
            if site.bias_flag == flag:
                for name in (*site.consumers, *site.biased_too):
                    _add_bias(submodule(block, name))
        setattr(config, flag, True)


def _check(path: str, block: nn.Module, site: Site, eraser: AffineEraser, config: Any) -> None:
    """Check that an eraser can become part of the layers behind its site."""
    if not site.consumers:
        raise ValueError(
            f"{path!r} feeds the residual stream, not linear layers alone: its eraser cannot be folded; apply hooks"
        )
    for name in site.consumers:
        layer: Any = submodule(block, name)
        weight = getattr(layer, "weight", None)
        if weight is None or not weight.is_floating_point() or not (isinstance(layer, nn.Linear) or _transposed(layer)):
            raise ValueError(
                f"{name} behind {path!r} is a {type(layer).__name__}: erasers can only be folded into linear layers"
            )
        width = weight.shape[0 if _transposed(layer) else 1]
        if width != len(eraser.proj_left):
            raise ValueError(f"the eraser at {path!r} has width {len(eraser.proj_left)}, but {name} reads {width}")
        if eraser.bias is not None and layer.bias is None and not hasattr(config, site.bias_flag or " "):
            raise ValueError(
                f"{name} behind {path!r} has no bias, and this family no setting for one, but the eraser keeps the "
                "mean: fit it with affine=False, or apply hooks"
            )


def _transposed(layer: nn.Module) -> bool:
    """Test whether a layer is GPT-2's linear layer, whose weight is `[in, out]`."""
    return type(layer).__name__ == "Conv1D" and type(layer).__module__.startswith("transformers.")


def _merge(layer: Any, eraser: AffineEraser) -> None:
    """Replace W by W P, and add W (I − P) b to the bias."""
    transposed = _transposed(layer)
    weight, bias = eraser.ahead_of(layer.weight.mT if transposed else layer.weight, layer.bias)
    layer.weight.copy_(weight.mT if transposed else weight)
    if bias is not None:
        layer.bias.copy_(bias)


def _add_bias(layer: Any) -> None:
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.new_zeros(layer.out_features), requires_grad=layer.weight.requires_grad)
