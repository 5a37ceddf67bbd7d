"""A random language model and text, for the costs of scrubbing: they do not depend on what either has learned."""

from typing import Any

import torch

from efface.scrubbing.evaluation import ScrubbingEvaluation
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.layerwise import scrub
from efface.scrubbing.scrubber import ConceptScrubber
from efface.scrubbing.tokens import TokenData

LENGTH, VOCABULARY = 128, 1024


def language_model(n: int, d: int, k: int, blocks: int) -> tuple[LanguageModel, TokenData]:
    """Make a LLaMA of width d, and n random tokens, each with a tag among k that follows from it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        hidden_size=d,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=3 * d,
        vocab_size=VOCABULARY,
        max_position_embeddings=LENGTH,
    )
    ids = torch.randint(VOCABULARY, (max(n // LENGTH, 2), LENGTH))
    ones = torch.ones_like(ids)
    model = auto.from_config(config).eval()
    lm = LanguageModel(model, lambda text: ([], []), (0,), (), 1, LENGTH)
    return lm, TokenData(input_ids=ids, attention_mask=ones, z=ids % k, n_bytes=ones)


def scrubbed(lm: LanguageModel, data: TokenData, k: int) -> ConceptScrubber:
    """Fit an eraser behind every normalisation."""
    scrubber, _ = scrub(lm.model, data.columns(), "z", batch_size=32, n_labels=k, progress=False)
    assert scrubber is not None
    return scrubber


def evaluated(lm: LanguageModel, scrubber: ConceptScrubber, data: TokenData, k: int) -> object:
    """Measure what a run of the grid does, on one split and on the data fitted on."""
    evaluation = ScrubbingEvaluation()
    scales = evaluation.scales(lm, scrubber, data, evaluation.sites(lm, scrubber))
    return evaluation(lm, scrubber, data, scales, k), evaluation.on_fit(lm, scrubber, data, scales, k)
