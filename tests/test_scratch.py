"""Folders that go with their process, and those of processes that were killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import CONF

from efface.files import scratch

HOLD = "import sys, time; from pathlib import Path; from efface.files import scratch\n"
HOLD += "with scratch(Path(sys.argv[1]), prefix='.one-') as folder:\n    print(folder, flush=True)\n    time.sleep(60)"


def hold(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that holds a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(parent)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_only_folders_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """Covers faults C5."""
    (living, used), (killed, left) = hold(tmp_path), hold(tmp_path)
    (left / "file").write_text("of the run")
    others = [tmp_path / ".one-just-made", tmp_path / ".other-one"]
    for folder in others:
        folder.mkdir()
    end(killed)
    assert left.is_dir()
    with scratch(tmp_path, prefix=".one-") as folder:
        assert not left.exists()
        assert all(path.is_dir() for path in (used, folder, *others))
        with scratch(tmp_path, prefix=".one-") as second:
            assert folder.is_dir()
        assert not second.exists()
    assert not folder.exists()
    end(living)
    with scratch(tmp_path, prefix=".one-"):
        assert not used.exists()
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_folders_of_other_users_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process, folder = hold(tmp_path)
    end(process)
    stat = os.stat

    def refused(path: str | Path, *args: object, **options: Any) -> os.stat_result:
        if Path(path).parent == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refused)
    with scratch(tmp_path, prefix=".one-"):
        assert folder.is_dir()


def test_command_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    """Covers faults C5."""
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(CONF.parent / "run.py")]
    places = [f"results_dir={tmp_path / 'results'}", f"cache_dir={tmp_path / 'cache'}", "logger=none"]
    process = subprocess.Popen([*command, *places], env=env, stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob(".efface-*/.locked")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".efface-*"))
    subprocess.run([*command, "--cfg", "job"], env=env, stdout=subprocess.DEVNULL, check=True)
    assert not list(tmp_path.glob(".efface-*"))
