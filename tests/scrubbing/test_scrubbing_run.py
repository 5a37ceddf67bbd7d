import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from tests.conftest import CONF

from efface.cli import main as entry
from efface.passport import passport_of, write
from efface.record import Record
from efface.report.__main__ import main as report
from efface.report.records import collect
from efface.runs import base
from efface.runs.scrubbing import ScrubbingRun
from efface.scrubbing import ConceptScrubber
from efface.scrubbing.evaluation import ScrubbingEvaluation
from efface.scrubbing.language_models import LanguageModel, LmTraining, NoTraining, PretrainedModel, TinyModel
from efface.verify.__main__ import main as verify

SMALL = (
    "model.hidden_size=32",
    "model.layers=2",
    "model.intermediate_size=64",
    "model.vocab_size=320",
    "model.max_length=48",
    "training.epochs=12",
    "training.batch_size=8",
    "training.lr=0.01",
    "dataset.name=small",
    "dataset.folder=sentences",
    "dataset.prefix=small",
    "logger=none",
    "device=cpu",
)
QUIET: dict[str, Any] = {"say": lambda message: None}


@pytest.fixture(scope="module")
def parts_of(treebank: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ScrubbingRun]:
    root = tmp_path_factory.mktemp("scrubbing")

    def build(*overrides: str) -> ScrubbingRun:
        places = [f"data_dir={treebank}", f"cache_dir={root / 'cache'}", f"results_dir={root / 'results'}"]
        with initialize_config_dir(str(CONF / "scrubbing"), version_base="1.3"):
            parts = entry.build(compose("scrubbing", overrides=[*SMALL, *places, *overrides]))
        assert isinstance(parts, ScrubbingRun)
        return parts

    return build


@pytest.fixture
def lm_without_head(trained: Callable[[str], LanguageModel]) -> LanguageModel:
    lm = trained("llama")
    return replace(lm, model=lm.model.base_model)


@pytest.fixture(scope="module")
def records(parts_of: Callable[..., ScrubbingRun]) -> dict[str, Record]:
    return {name: base.execute(parts_of(f"method={name}"), **QUIET) for name in ("none", "random", "leace", "orth")}


def test_passport_of_a_scrubbed_model_tells_erasers_from_controls(
    records: dict[str, Record], parts_of: Callable[..., ScrubbingRun], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, record in records.items():
        run_dir = parts_of(f"method={name}").directory
        passport = write(passport_of(run_dir), run_dir)
        assert (passport.guarantee.kind == "linear") == (name in ("leace", "orth"))
        assert passport.base.known
        text = (run_dir / "passport.md").read_text()
        assert f"a linear reader gains {record.metrics['probe_information']:.3f}" in text
        assert verify([str(run_dir)]) == 0, capsys.readouterr().out
        assert verify([str(run_dir), "--data", "."]) == 2
        assert "measured again by repeating its run" in capsys.readouterr().err


def test_a_record_for_each_method(records: dict[str, Record]) -> None:
    ranks = set()
    for name, record in records.items():
        assert record.status == "done"
        assert record.run["cache_hit"]["model"] == (name != "none")  # one model for all
        assert 0 < record.info["unigram_bits_per_byte"] < 8
        assert [layer["path"] for layer in record.info["layers"]] == [
            f"layers.{i}.{norm}" for i in range(2) for norm in ("input_layernorm", "post_attention_layernorm")
        ]
        for metrics in (record.metrics, record.val_metrics):
            assert 1 < metrics["bits_per_byte"] < 8
            assert math.isfinite(metrics["probe_information"])
        most = max(record.info["layers"], key=lambda layer: layer["probe_information"])
        assert record.metrics["probe_information"] == most["probe_information"]
        assert record.metrics["probe_layer"] == most["path"]
        ranks.add(record.info["rank"])
    assert ranks == {0, len(records["none"].info["tags"]) - 1}  # equal for all that erase
    for name in ("leace", "orth"):
        assert all(layer["fit_information"] < 1e-3 for layer in records[name].info["layers"])
        assert records[name].metrics["max_abs_cov"] < 1e-5
    assert records["random"].metrics["max_abs_cov"] > 1e-2
    losses = {name: record.metrics["bits_per_byte"] for name, record in records.items()}
    assert losses["none"] < losses["random"] < max(losses["leace"], losses["orth"])


def test_every_null_metric_has_a_reason(
    records: dict[str, Record], parts_of: Callable[..., ScrubbingRun], lm_without_head: LanguageModel
) -> None:
    for record in records.values():
        assert record.info["uses_attribute_at_test"] is False
        for metrics, reasons in ((record.metrics, "reasons"), (record.val_metrics, "val_reasons")):
            assert record.info[reasons].keys() == {name for name, value in metrics.items() if value is None}
    assert records["none"].info["reasons"] == {"max_abs_cov": "nothing is erased"}
    parts = parts_of()
    text = parts.dataset.load(parts.data_dir)
    data = lm_without_head.tokenise(text.dev, text.tags)
    evaluation = ScrubbingEvaluation(probe=False)
    measures = evaluation(lm_without_head, ConceptScrubber(), data, {}, len(text.tags))
    assert set(measures.metrics.values()) == {None}
    assert measures.reasons.keys() == measures.metrics.keys()
    assert "no head" in measures.reasons["bits_per_byte"]


def test_the_batch_size_can_be_set(
    parts_of: Callable[..., ScrubbingRun], records: dict[str, Record], tmp_path: Path
) -> None:
    """Covers faults C3."""
    small = replace(parts_of("method=leace", "evaluation.batch_size=3"), results_dir=tmp_path)
    sizes: set[int] = set()

    class Spy(type(small.method)):  # type: ignore[misc]
        def fit(self, lm: Any, train: Any, **options: Any) -> Any:
            sizes.add(options["batch_size"])
            return super().fit(lm, train, **options)

    record = base.execute(replace(small, method=Spy(**vars(small.method))), **QUIET)
    assert sizes == {3}
    assert record.id != records["leace"].id
    assert record.metrics["bits_per_byte"] == pytest.approx(records["leace"].metrics["bits_per_byte"], rel=1e-5)


def test_a_run_repeats_itself_and_is_resumed(records: dict[str, Record], parts_of: Callable[..., ScrubbingRun]) -> None:
    said: list[str] = []
    again = base.execute(parts_of("method=leace"), say=said.append)
    assert again == records["leace"]
    assert "finished already" in said[0]
    said.clear()
    anew = base.execute(parts_of("method=leace", "overwrite=true"), say=said.append)
    assert said[0].startswith("small, tiny_llama, leace: the model (trained unless ")
    assert anew.model_dump(exclude={"run"}) == records["leace"].model_dump(exclude={"run"})
    other = parts_of("method=random", "seed=1")
    assert base.status(other) == "to do"
    scrubber = ConceptScrubber.load(parts_of("method=leace").directory / "scrubber.safetensors")
    assert {eraser.rank for eraser in scrubber.erasers.values()} == {15}


def test_the_report_shows_bits_per_byte(
    records: dict[str, Record], parts_of: Callable[..., ScrubbingRun], tmp_path: Path
) -> None:
    assert report([str(parts_of().results_dir), "--out", str(tmp_path)]) == 0
    table = (tmp_path / "table.md").read_text()
    assert "bits per byte" in table
    assert f"{records['leace'].metrics['bits_per_byte']:.3f}" in table
    assert list(collect(parts_of().results_dir).layers.groupby("path").size()) == [4] * 4
    assert (tmp_path / "probe_by_layer.png").stat().st_size > 10_000


def test_the_command_line_resumes_and_names_wrong_keys(
    parts_of: Callable[..., ScrubbingRun], records: dict[str, Record]
) -> None:
    parts = parts_of()
    command = [sys.executable, "run.py", "-m", "--config-name=scrubbing", *SMALL, "method=none,leace"]
    places = [f"data_dir={parts.data_dir}", f"cache_dir={parts.cache_dir}", f"results_dir={parts.results_dir}"]
    done = subprocess.run([*command, *places], cwd=CONF.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished already") == 2
    assert f"bits_per_byte {records['leace'].metrics['bits_per_byte']:.3f}" in done.stdout
    wrong = subprocess.run(
        [*command[:3], "-cn", "scrubbing", "model.depth=3"], cwd=CONF.parent, capture_output=True, text=True
    )
    assert wrong.returncode == 1
    assert "Keys of model: architecture" in wrong.stderr


def test_the_experiment_composes_and_its_page_has_the_command() -> None:
    with initialize_config_dir(str(CONF / "scrubbing"), version_base="1.3"):
        assert compose("scrubbing", overrides=["experiment=leace_scrubbing"]).method.name == "leace"
    page = (CONF.parent / "experiments" / "leace_scrubbing" / "README.md").read_text()
    assert "--config-name=scrubbing experiment=leace_scrubbing" in page
    published = (CONF.parent / "experiments" / "leace_scrubbing" / "published.csv").read_text().splitlines()
    assert len(published) == 1 + 5 * 7
    assert any(row.startswith("leace,text model=LLaMA-30B,bits_per_byte,1.96,") for row in published)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data_dir=nowhere"], "no file .*small-train.conllu"),
        (["model.architecture=bert"], "architecture is 'bert', but must be one of gemma, gemma2, gemma3_text, gpt2"),
        (["model.heads=5"], "heads must divide hidden_size"),
        (["training=none"], "a tiny llama has to be trained: use training=lm"),
        (["model=minilm", "training=lm"], "a pretrained model is taken as it is: use training=none"),
        (["model=pretrained", "model.path=conf"], "path: conf cannot be loaded"),
        (["model=pretrained", "model.path=package:no_such_package/model"], "pip install no-such-package"),
        (["method=random", "method.rank=32"], "subspace_dim is 32"),
        (["method=leace", "method.method=sal"], "method is 'sal'"),
        (["evaluation.probe_tokens=3"], "probe_tokens is 3"),
    ],
)
def test_bad_input(
    parts_of: Callable[..., ScrubbingRun],
    overrides: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    same = ("dataset", "logger") if overrides[0].startswith(("model=", "training=")) else ("",)
    small = [o for o in SMALL if o.startswith(same)]
    places = [f"data_dir={parts_of().data_dir}", f"results_dir={tmp_path}"]
    with initialize_config_dir(str(CONF / "scrubbing"), version_base="1.3"):
        cfg = compose("scrubbing", overrides=[*small, *places, *overrides])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        base.execute(entry.build(cfg), **QUIET)


def test_a_model_in_a_folder_can_be_scrubbed(
    trained: Callable[[str], Any], parts_of: Callable[..., ScrubbingRun], tmp_path: Path
) -> None:
    """Saved as `transformers` saves, with its tokeniser: the same figures as in memory. Covers faults A7."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    lm = trained("llama")
    text = parts_of().dataset.load(parts_of().data_dir)
    kept: dict[str, Any] = {}

    def cached(build: Callable[[], Any]) -> Any:
        kept["built"] = build()
        return kept["built"]

    source = TinyModel(
        architecture="llama", hidden_size=32, layers=2, heads=4, intermediate_size=64, vocab_size=320, max_length=48
    )
    source.load(text, LmTraining(epochs=0), seed=0, device="cpu", cached=cached, progress=False)
    tokenizer = Tokenizer.from_str(kept["built"][1]["tokenizer"])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>").save_pretrained(tmp_path)
    lm.model.save_pretrained(tmp_path)
    parts = parts_of("method=leace")
    again = ScrubbingRun(
        **{
            **vars(parts),
            "config": {**parts.config, "model": {"name": "folder"}, "training": {"name": "none"}},
            "model": PretrainedModel(path=str(tmp_path), max_length=48),
            "training": NoTraining(),
        }
    )
    one, other = base.execute(again, **QUIET), base.execute(parts, **QUIET)
    assert one.info["model_digest"] == other.info["model_digest"]
    assert one.metrics == other.metrics
    assert one.info["layers"] == other.info["layers"]
    # Other weights in the folder: what was finished is another model's.
    assert base.status(again) == "done"
    with torch.no_grad():
        lm.model.get_output_embeddings().weight.mul_(2)
    lm.model.save_pretrained(tmp_path)
    with torch.no_grad():
        lm.model.get_output_embeddings().weight.div_(2)
    assert base.status(again) == "another fingerprint"


def test_training_says_when_it_diverges(trained: Callable[[str], Any], parts_of: Callable[..., ScrubbingRun]) -> None:
    """Covers faults A8."""
    parts = parts_of("training.lr=1e9")
    with pytest.raises(FloatingPointError, match=r"lower training\.lr"):
        base.execute(parts, **QUIET)
    assert torch.isfinite(next(trained("llama").model.parameters())).all()
