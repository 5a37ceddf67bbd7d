"""Passports of real runs: what they claim, what they do not, and where each number is from."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonschema import Draft202012Validator
from tests.conftest import CONF, executed
from tests.passport.conftest import record_of

from efface import LeaceEraser, certify
from efface.cli.conf import file_options
from efface.files import file_digest
from efface.passport import Passport, build, passport_of, write
from efface.passport.__main__ import main
from efface.passport.claims import CLAIMS, SCRUBBING_CLAIMS, claim_of
from efface.passport.facts import Facts
from efface.passport.limits import excess_bits
from efface.passport.schema import json_schema
from efface.record import PASSPORT_FILES, Record
from efface.runs import grid

SCHEMA = CONF.parent / "docs" / "passport.schema.json"


def run_of(results: Path, method: str) -> Path:
    return record_of(results, method).parent


def changed(run_dir: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Edit a record in place."""
    path = run_dir / "record.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return run_dir


@pytest.mark.parametrize(
    ("folder", "claims"), [("method", CLAIMS), ("scrubbing/method", SCRUBBING_CLAIMS)], ids=["grid", "scrubbing"]
)
def test_every_method_has_a_claim(folder: str, claims: dict[str, Any]) -> None:
    names = {str(yaml.safe_load(path.read_text())["name"]) for path in (CONF / folder).glob("*.yaml")}
    assert names == set(claims)


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_every_claim_can_be_made_from_a_record(finished: Path, name: str) -> None:
    """With the options of its yaml, and what a run of it reports."""
    facts = Facts.read(run_of(finished, "leace"))
    options = {**file_options(CONF / "method" / f"{name}.yaml", "method", CONF), "fit_on": "train", "reweigh": False}
    certificate = {"certified": False, "certified_reason": "no", "removed": 3, "epsilon": 1.0, "delta": 1e-5}
    record = facts.record.model_copy(
        update={"config": {**facts.record.config, "method": options}, "info": {**facts.info, **certificate}}
    )
    claim = claim_of(Facts(**{**vars(facts), "record": record}))
    assert claim.removed.endswith(".")
    assert (claim.guarantee.kind == "none") == (claim.guarantee.theorem is None)


def test_method_of_a_person_claims_nothing(results: Path) -> None:
    def rename(record: dict[str, Any]) -> None:
        record["config"]["method"]["name"] = "mine"

    passport = passport_of(changed(run_of(results, "leace"), rename))
    assert passport.guarantee.kind == "none"
    assert "not in efface's table" in passport.guarantee.statement


def test_leace_claims_its_theorem_under_conditions(finished: Path) -> None:
    passport = passport_of(run_of(finished, "leace"))
    assert passport.guarantee.kind == "linear"
    assert "Theorem 3.1" in str(passport.guarantee.theorem)
    assert [c.holds for c in passport.guarantee.conditions[:2]] == [True, True]
    assert "pairs (1,000 samples)" in passport.guarantee.conditions[0].statement


def test_eraser_that_left_a_covariance_claims_nothing(results: Path) -> None:
    """Of small features 1e-4 is much; of those of a run without a scale it is not known how much."""

    def shrink(record: dict[str, Any]) -> None:
        record["metrics"]["max_abs_cov"], record["info"]["feature_scale"] = 1e-4, 1e-2

    run_dir = run_of(results, "leace")
    passport = passport_of(changed(run_dir, shrink))
    assert passport.guarantee.kind == "none"
    assert "1.0e-04, of features whose standard deviation is 1.0e-02; in 32-bit arithmetic that is not zero" in (
        passport.guarantee.statement
    )
    passport = passport_of(changed(run_dir, lambda record: record["info"].pop("feature_scale")))
    assert passport.guarantee.conditions[1].holds is None


def test_model_that_came_trained_may_have_seen_test(results: Path) -> None:
    run_dir = run_of(results, "leace")
    assert "The model came trained" not in " ".join(passport_of(run_dir).not_guaranteed)
    changed(run_dir, lambda record: record["config"]["training"].update(name="none"))
    assert "The model came trained" in " ".join(passport_of(run_dir).not_guaranteed)


def test_rlace_below_full_rank_claims_nothing(results: Path) -> None:
    def as_rlace(rank: int, optimal_for: list[str]) -> Callable[[dict[str, Any]], None]:
        def change(record: dict[str, Any]) -> None:
            record["config"]["method"] |= {"name": "rlace", "rank": rank}
            record["info"]["solution"] = {"optimal_for": optimal_for, "suboptimality_bound": 0.5}

        return change

    run_dir = run_of(results, "leace")
    assert passport_of(changed(run_dir, as_rlace(9, ["cross-entropy", "squared"]))).guarantee.kind == "linear"
    assert passport_of(changed(run_dir, as_rlace(1, []))).guarantee.kind == "none"


def test_certificate_that_is_not_valid_says_why(finished: Path) -> None:
    passport = passport_of(run_of(finished, "certified"))
    assert passport.certificate is not None
    assert not passport.certificate.valid
    assert "extractor" in str(passport.certificate.reason)
    assert passport.guarantee.kind == "none"
    assert (passport.certificate.epsilon, passport.certificate.delta) == (1.0, 1e-5)


def test_every_metric_is_a_figure_beside_the_base_model(finished: Path) -> None:
    run_dir = run_of(finished, "leace")
    record, before = Record.read(run_dir / "record.json"), Record.read(record_of(finished, "none"))
    passport = passport_of(run_dir)
    assert passport.base.record == file_digest(record_of(finished, "none"))
    assert {figure.key for figure in passport.figures} == set(record.metrics)
    for figure in passport.figures:
        value, old = record.metrics[figure.key], before.metrics[figure.key]
        if isinstance(value, dict):
            assert (figure.parts, figure.base_parts) == (value, old)
        else:
            assert (figure.value, figure.base) == (value, old)
            assert figure.value is not None or figure.reason
        bounds = record.metrics_ci.get(figure.key)
        assert figure.interval == (tuple(bounds) if bounds else None)
        half = "probe_" in figure.key
        assert figure.split == ("half of test" if half else "fitted on" if figure.key == "max_abs_cov" else "test")
        assert figure.n == (record.info["n_probed"].get(figure.key.partition("probe_")[0] + "probe") if half else 1000)


def test_base_model_of_other_data_is_not_known(results: Path) -> None:
    def of_other_data(record: dict[str, Any]) -> None:
        record["fingerprint"] = "0" * 16

    changed(run_of(results, "none"), of_other_data)
    passport = passport_of(run_of(results, "leace"))
    assert not passport.base.known
    assert "other data" in str(passport.base.reason)
    assert {figure.base for figure in passport.figures} == {None}


def test_numbers_of_what_is_not_guaranteed_are_those_of_the_record(finished: Path) -> None:
    run_dir = run_of(finished, "leace")
    metrics = Record.read(run_dir / "record.json").metrics
    text = " ".join(passport_of(run_dir).not_guaranteed)
    assert f"gains {metrics['probe_information']:.3f} of 3.32 bits (95 % interval" in text
    assert "the non-linear probe is switched off" in text
    assert f"label by {metrics['counterfactual_bias']:.3f}" in text


def test_sampling_error_leaves_what_is_said() -> None:
    """On Gaussians with a population of 60,000, whose own sampling error is subtracted."""
    g = torch.Generator().manual_seed(0)
    d, k, n, large = 40, 3, 2000, 60_000
    means = torch.randn(k, d, generator=g, dtype=torch.float64) / 2

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        z = torch.randint(k, (count,), generator=g)
        return means[z] + torch.randn(count, d, generator=g, dtype=torch.float64), z

    left = []
    for _ in range(3):
        eraser = LeaceEraser.fit(*draw(n))
        left.append(float(certify(eraser, *draw(large)).information or 0) - excess_bits(d, large, k))
    assert sum(left) / 3 == pytest.approx(excess_bits(d, n, k), rel=0.25)


def test_passport_that_is_read_is_the_one_that_was_written(finished: Path, tmp_path: Path) -> None:
    written = write(passport_of(run_of(finished, "leace")), tmp_path, {"model.bin": "0" * 64})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PASSPORT_FILES)
    assert Passport.read(tmp_path / "passport.json") == written
    assert written.files == {"model.bin": "0" * 64}


def test_schema_is_the_published_one_and_admits_a_passport(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == json_schema() == SCHEMA.read_text()
    validator = Draft202012Validator(json.loads(json_schema()))
    for method in ("none", "leace", "fmd_published", "certified"):
        validator.validate(json.loads(passport_of(run_of(finished, method)).to_json()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"schema_version": 99, "news": 1}, "schema version 99, of a later efface.*pip install --upgrade"),
        ({"schema_version": 0}, "schema version 0, of another efface.*write it again"),
        ({"schema_version": 1, "news": 1}, "schema version 1, of another efface.*this one reads 2: write it again"),
        ({"schema_version": 2, "removed": "all"}, r"passport\.json is damaged"),
        ([], r"passport\.json is no passport"),
    ],
)
def test_passport_of_another_schema_is_named(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "passport.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        Passport.read(tmp_path / "passport.json")


def test_command_writes_three_files(
    results: Path, parts_of: Callable[..., grid.GridRun], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run_of(results, "leace")
    assert main([str(run_dir), str(results)]) == 1
    said = capsys.readouterr()
    assert said.out.strip() == str(run_dir / "passport.html")
    assert "holds no finished run" in said.err
    assert all((run_dir / name).is_file() for name in PASSPORT_FILES)


def test_command_is_that_of_the_record_where_hydra_is_installed(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = run_of(results, "leace")
    assert passport_of(run_dir).origin.command == (
        "python run.py dataset=colored_mnist_mini model=mlp training=erm method=leace evaluation=default "
        "training.epochs=5 evaluation.mlp_probe=false evaluation.bootstrap=100 seed=0"
    )
    monkeypatch.setattr(build, "is_installed", lambda name: False)
    assert passport_of(run_dir).origin.command is None


def test_new_result_takes_the_passport_of_the_old_one_away(
    parts_of: Callable[..., grid.GridRun], tmp_path: Path
) -> None:
    parts = parts_of("method=none", "evaluation.probe=false", "evaluation.mlp_probe=false", "training.epochs=1")
    first = executed(parts, tmp_path)
    write(passport_of(first.directory), first.directory)
    again = executed(parts, tmp_path, overwrite=True)
    assert again.directory == first.directory
    assert not any((again.directory / name).exists() for name in PASSPORT_FILES)


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (lambda run: (run / "record.json").unlink(), FileNotFoundError, "no finished run"),
        (lambda run: (run / "predictions.parquet").unlink(), FileNotFoundError, r"predictions\.parquet is gone"),
        (lambda run: (run / "debiased.safetensors").write_bytes(b""), ValueError, "is not the file of"),
        (lambda run: (run / "record.json").write_text("{"), ValueError, "damaged"),
        (lambda run: changed(run, lambda r: r.update(status="failed", reason="why")), ValueError, r"failed \(why\)"),
        (lambda run: changed(run, lambda r: r["config"]["method"].pop("fit_on")), ValueError, "no option 'fit_on'"),
    ],
    ids=["no record", "no predictions", "other model", "half a record", "failed", "lacks an option"],
)
def test_run_that_is_not_whole_has_no_passport(
    results: Path, break_it: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    run_dir = run_of(results, "leace")
    break_it(run_dir)
    with pytest.raises(error, match=message):
        passport_of(run_dir)


def test_front_matter_is_that_of_a_model_card(finished: Path, tmp_path: Path) -> None:
    run_dir = run_of(finished, "leace")
    write(passport_of(run_dir), tmp_path)
    _, front, body = (tmp_path / "passport.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["datasets"] == ["colored_mnist_mini"]
    (result,) = card["model-index"][0]["results"]
    accuracy = Record.read(run_dir / "record.json").metrics["accuracy"]
    assert {"type": "accuracy", "name": "accuracy", "value": accuracy} in result["metrics"]
    assert "license" not in card
    tables = [line for line in body.splitlines() if line.startswith("|")]
    assert all(re.fullmatch(r"\|.*\|", line) for line in tables)
    assert math.isfinite(accuracy)


def test_passport_is_made_without_torch(finished: Path) -> None:
    code = (
        "import sys\nfrom efface.passport.__main__ import main\n"
        "from efface.passport import passport_of\npassport_of(sys.argv[1])\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, run_of(finished, "leace")], check=True)
