"""Erasers of one block alone, INLP of the last states, and sequences sorted by length."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from efface.data.conllu import TaggedText
from efface.erasure.leace import LeaceFitter
from efface.evaluation.probes import linear_probe
from efface.identity import run_id
from efface.report.plots.layers import loss_by_layer
from efface.scrubbing import ConceptScrubber, family_of, scrub
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.measure import bits_per_byte, states_behind
from efface.scrubbing.methods import InlpScrubbing, Scrubbing
from efface.scrubbing.tokens import TokenData

FIT = {"seed": 0, "batch_size": 8, "progress": False}


def test_erasers_of_one_block_are_fitted_on_states_that_nothing_was_erased_from(
    lm: LanguageModel, train: TokenData, text: TaggedText
) -> None:
    scrubber = Scrubbing(layer=1).fit(lm, train, **FIT)  # type: ignore[arg-type]
    paths = [path for path in family_of(lm.model).paths(lm.model) if ".1." in path]
    assert list(scrubber.erasers) == paths
    labelled = (train.z >= 0) & (train.attention_mask > 0)
    states = states_behind(lm, ConceptScrubber(), train, paths[:1], batch_size=8, tokens=labelled)[paths[0]]
    fitter = LeaceFitter(states.shape[1], len(text.tags), dtype=torch.float32)
    fitter.update(states, train.z[labelled])
    assert torch.allclose(scrubber.erasers[paths[0]].P, fitter.eraser.P, atol=1e-3)
    whole = Scrubbing().fit(lm, train, **FIT)  # type: ignore[arg-type]
    assert not torch.allclose(scrubber.erasers[paths[0]].P, whole.erasers[paths[0]].P, atol=1e-3)


def test_one_block_costs_less_than_all(lm: LanguageModel, train: TokenData) -> None:
    losses = [
        bits_per_byte(lm, Scrubbing(layer=layer).fit(lm, train, **FIT), train, batch_size=8)  # type: ignore[arg-type]
        for layer in (0, 1, None)
    ]
    untouched = bits_per_byte(lm, ConceptScrubber(), train, batch_size=8)
    assert untouched is not None
    assert all(loss is not None and loss > untouched for loss in losses)
    assert max(losses[:2]) < losses[2]  # type: ignore[operator, type-var]


def test_a_block_that_is_not_there_is_named(lm: LanguageModel, train: TokenData) -> None:
    with pytest.raises(ValueError, match=r"layer is 2, but the model has the blocks 0 … 1"):
        scrub(lm.model, train.columns(), "z", layer=2)


def test_the_loss_is_left_out_on_request(lm: LanguageModel, train: TokenData) -> None:
    assert scrub(lm.model, train.columns(), "z", batch_size=8, with_loss=False, progress=False)[1] is None


def test_all_blocks_have_the_id_that_they_had_before_there_was_a_choice() -> None:
    nodes = {node: {"name": "a"} for node in ("dataset", "model", "training", "method", "evaluation")}
    before = run_id(nodes)
    assert run_id({**nodes, "method": {"name": "a", "layer": None}}) == before
    assert run_id({**nodes, "method": {"name": "a", "layer": 0}}) != before


def test_inlp_takes_the_concept_from_what_the_output_layer_reads(
    lm: LanguageModel, train: TokenData, text: TaggedText
) -> None:
    path = family_of(lm.model).output(lm.model)
    labelled = (train.z >= 0) & (train.attention_mask > 0)
    scrubber = InlpScrubbing(iterations=2).fit(lm, train, **FIT)  # type: ignore[arg-type]
    assert list(scrubber.erasers) == [path]
    assert scrubber.erasers[path].rank == min(2 * (len(text.tags) - 1), 31)
    accuracies = []
    for eraser in (ConceptScrubber(), scrubber):
        x = states_behind(lm, eraser, train, [path], batch_size=8, tokens=labelled)[path]
        accuracies.append(linear_probe(x.double(), train.z[labelled], train.z[labelled], len(text.tags)).accuracy)
    assert accuracies[1] < accuracies[0] - 0.05
    read: list[torch.Tensor] = []
    handle = lm.model.get_output_embeddings().register_forward_pre_hook(lambda module, args: read.append(args[0]))  # type: ignore[operator]
    lm.model(input_ids=train.input_ids[:1])
    handle.remove()
    (x,) = states_behind(lm, ConceptScrubber(), train.rows(torch.tensor([0])), [path], batch_size=1,
                         tokens=torch.ones_like(train.z[:1], dtype=torch.bool)).values()  # fmt: skip
    assert torch.allclose(read[0][0, :5], x[:5], atol=1e-5)


def test_sorted_sequences_give_the_same_loss_and_the_same_erasers(lm: LanguageModel, train: TokenData) -> None:
    ordered = train.by_length()
    lengths = ordered.attention_mask.sum(1)
    assert torch.equal(lengths, lengths.sort().values)
    assert [len(row) for row in ordered.columns()["z"]] == lengths.tolist()
    one, other = (bits_per_byte(lm, ConceptScrubber(), data, batch_size=5) for data in (train, ordered))
    assert one == pytest.approx(other, rel=1e-5)
    erasers = [Scrubbing().fit(lm, data, **FIT).erasers for data in (train, ordered)]  # type: ignore[arg-type]
    for path in erasers[0]:
        assert torch.allclose(erasers[0][path].P, erasers[1][path].P, atol=1e-3)


def frame(**columns: object) -> pd.DataFrame:
    base = {"dataset": "ud", "model": "tiny", "training": "lm", "status": "done", "seed": 0, "method_name": "leace"}
    return pd.DataFrame({**base, **columns})


def test_the_plot_of_the_loss_needs_runs_of_single_blocks(tmp_path: Path) -> None:
    layers = [{"layer": 0}, {"layer": 2}, {"layer": 1}, {}, {}]
    runs = frame(
        method=["leace layer=0", "leace layer=2", "leace layer=1", "none", "leace layer=null"],
        method_name=["leace"] * 3 + ["none", "leace"],
        method_options=layers,
        bits_per_byte=[1.5, 1.4, 1.2, 1.1, 2.9],
    )
    (plot,) = loss_by_layer(runs, tmp_path)
    assert plot.name == "loss_by_layer"
    assert all(path.stat().st_size > 3000 for path in plot.paths)
    assert loss_by_layer(runs.iloc[3:], tmp_path) == []
    assert loss_by_layer(runs.drop(columns="bits_per_byte"), tmp_path) == []
