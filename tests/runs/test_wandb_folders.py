"""Offline folders of Weights & Biases: a whole one for each finished run, whatever was killed or overwritten."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import CONF

pytestmark = pytest.mark.slow


def command(folder: Path, *overrides: str) -> list[str]:
    quick = ["training.epochs=30", "evaluation.probe=false", "evaluation.mlp_probe=false", "logger=wandb"]
    places = [f"results_dir={folder / 'results'}", f"cache_dir={folder / 'cache'}"]
    return [sys.executable, str(CONF.parent / "run.py"), *quick, *places, *overrides]


def env() -> dict[str, str]:
    return {**os.environ, "WANDB_MODE": "offline"}


def folders(root: Path) -> list[Path]:
    return sorted(root.rglob("offline-run-*"))


def kill(folder: Path) -> None:
    """Kill a run as soon as it is followed."""
    before = folders(folder)
    process = subprocess.Popen(command(folder, "overwrite=true"), env=env(), cwd=folder, stdout=subprocess.DEVNULL)
    while not any(path.suffix == ".wandb" for new in set(folders(folder)) - set(before) for path in new.iterdir()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()


def repeat(folder: Path, *overrides: str) -> int:
    done = subprocess.run(command(folder, *overrides), env=env(), cwd=folder, capture_output=True)
    return done.returncode


def test_one_whole_folder_is_left_after_kill_and_repetition(tmp_path: Path) -> None:
    kill(tmp_path)
    (half,) = folders(tmp_path)
    assert repeat(tmp_path) == 0
    (whole,) = folders(tmp_path)
    assert whole != half
    assert b"debiased.safetensors" in next(whole.glob("*.wandb")).read_bytes()
    assert (whole.parent / "latest-run").resolve() == whole
    kill(tmp_path)
    assert whole in folders(tmp_path), "the record there is still that of the first"
    assert repeat(tmp_path, "overwrite=true") == 0
    (other,) = folders(tmp_path)
    assert other != whole


def test_run_killed_between_its_record_and_the_end_of_its_log_is_logged_again(tmp_path: Path) -> None:
    assert repeat(tmp_path) == 0
    (half,) = folders(tmp_path)
    (half / ".finished").unlink()
    for _ in range(2):
        assert repeat(tmp_path) == 0
        (whole,) = folders(tmp_path)
        assert whole != half
        content = next(whole.glob("*.wandb")).read_bytes()
        assert b"debiased.safetensors" in content
        assert b"training/" in content
    assert len(list(tmp_path.rglob("record.json"))) == 1


def test_log_of_a_record_that_another_took_the_place_of_is_made_anew_and_sent_once(tmp_path: Path) -> None:
    assert repeat(tmp_path) == 0
    (stale,) = folders(tmp_path)
    assert repeat(tmp_path, "logger=none", "overwrite=true") == 0
    assert folders(tmp_path) == [stale]
    assert repeat(tmp_path) == 0
    (present,) = folders(tmp_path)
    assert present != stale
    (present / "run-aaaaaaaa.wandb.synced").touch()
    assert repeat(tmp_path) == 0
    assert folders(tmp_path) == [present]


def test_failed_attempts_leave_the_folder_of_the_result_that_counts(tmp_path: Path) -> None:
    assert repeat(tmp_path) == 0
    (whole,) = folders(tmp_path)
    half, sent = (whole.with_name(f"offline-run-20200101_000000-{name}") for name in ("aaaaaaaa", "bbbbbbbb"))
    for folder in (half, sent):
        folder.mkdir()
    (sent / "run-bbbbbbbb.wandb.synced").touch()
    assert repeat(tmp_path, "overwrite=true", "device=cuda:7") == 1
    assert {whole, sent} < set(folders(tmp_path))
    assert not half.exists()
    assert repeat(tmp_path, "overwrite=true") == 0
    assert sent in folders(tmp_path)
    assert len(folders(tmp_path)) == 2
