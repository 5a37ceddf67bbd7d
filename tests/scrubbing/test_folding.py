import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.scrubbing.conftest import untouched
from tests.scrubbing.test_layerwise import random_model, words
from torch import Tensor

from efface.scrubbing import FAMILIES, ConceptScrubber, fold, scrub
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.tokens import TokenData

__all__ = ["words"]


def fitted(model: Any, words: dict[str, Tensor], **options: Any) -> ConceptScrubber:
    scrubber, _ = scrub(model, words, "pos", batch_size=8, progress=False, **options)
    assert scrubber is not None
    return scrubber


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    return model(ids).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("affine", [True, False])
def test_folded_model_equals_the_hooked_model(
    lm: LanguageModel, train: TokenData, affine: bool, tmp_path: Path
) -> None:
    """Also once saved and loaded as any other model, biases and all."""
    scrubber, _ = scrub(lm.model, train.columns(), "z", affine, 8, progress=False)
    assert scrubber is not None
    with scrubber.scrub(lm.model):
        expected = logits(lm.model, train.input_ids[:4])
    plain = logits(lm.model, train.input_ids[:4])
    folded: Any = copy.deepcopy(lm.model)
    fold(scrubber, folded)
    assert untouched(folded)
    scale = float(expected.abs().max())
    assert float((logits(folded, train.input_ids[:4]) - expected).abs().max()) < 2e-6 * scale
    assert float((plain - expected).abs().max()) > 1e-2 * scale
    folded.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again, train.input_ids[:4]), logits(folded, train.input_ids[:4]))
    if lm.model.config.model_type == "llama":
        assert folded.config.attention_bias == affine
        assert folded.config.mlp_bias == affine


def test_erasers_of_some_blocks_can_be_folded(words: dict[str, Tensor], tmp_path: Path) -> None:
    """Blocks without an eraser get biases of zero, as the configuration has one setting for all."""
    model = random_model("llama")
    scrubber = fitted(model, words)
    del scrubber.erasers["layers.0.input_layernorm"], scrubber.erasers["layers.2.post_attention_layernorm"]
    with scrubber.scrub(model):
        expected = logits(model, words["input_ids"])
    fold(scrubber, model)
    torch.testing.assert_close(logits(model, words["input_ids"]), expected, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again, words["input_ids"]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("llama", "gpt_neox", "bert")])
def test_other_families_can_be_folded(family: str, words: dict[str, Tensor]) -> None:
    model = random_model(family)
    scrubber = fitted(model, words, affine=family == "gpt2")
    with scrubber.scrub(model):
        expected = logits(model, words["input_ids"])
    fold(scrubber, model)
    torch.testing.assert_close(logits(model, words["input_ids"]), expected, atol=1e-5, rtol=0)


def test_half_precision_differs_only_by_its_rounding(words: dict[str, Tensor]) -> None:
    model = random_model("gpt_neox").to(torch.bfloat16)
    scrubber = fitted(model, words)
    with scrubber.scrub(model):
        expected = logits(model, words["input_ids"]).float()
    fold(scrubber, model)
    assert float((logits(model, words["input_ids"]).float() - expected).abs().max()) < 0.02 * float(
        expected.abs().max()
    )


def test_inexact_folding_is_refused(words: dict[str, Tensor]) -> None:
    for family, message in {
        "mistral": "q_proj behind .* has no bias, and this family no setting for one",
        "gemma": "gate_proj behind .* has no bias",
        "bert": "'embeddings.LayerNorm' is no site|feeds the residual stream",
    }.items():
        model = random_model(family)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=message):
            fold(fitted(model, words), model)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    bert = random_model("bert")
    scrubber = fitted(bert, words, affine=False)
    del scrubber.erasers["embeddings.LayerNorm"]
    with pytest.raises(ValueError, match="feeds the residual stream"):
        fold(scrubber, bert)
    model = random_model("llama")
    with pytest.raises(ValueError, match="pre_hook is on"):
        fold(fitted(model, words, pre_hook=True), model)
    narrow = fitted(model, words)
    narrow.erasers["norm"] = narrow.erasers["layers.0.input_layernorm"]
    with pytest.raises(ValueError, match="'norm' is no site that can be folded"):
        fold(narrow, model)
    model.model.layers[0].self_attn.q_proj = torch.nn.Identity()
    del narrow.erasers["norm"]
    with pytest.raises(ValueError, match="is a Identity"):
        fold(narrow, model)
