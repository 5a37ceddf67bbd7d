"""Commands that are killed and repeated, and commands of several processes, give the files of one that ran through."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.embeddings.digits import PARTS, X, Y, run, write

from efface.embeddings.__main__ import main
from efface.erasure.leace import LeaceEraser, LeaceFitter

MANY = 120


def many(folder: Path) -> list[str]:
    """Write as many shards of a few rows each."""
    folder.mkdir()
    order = torch.arange(MANY * 20) % len(X)
    for i, rows in enumerate(order.split(20)):
        np.save(folder / f"x{i:03}.npy", X[rows].half().numpy())
        np.save(folder / f"z{i:03}.npy", Y[rows].numpy())
    return [*map(str, sorted(folder.glob("x*"))), "--labels", *map(str, sorted(folder.glob("z*")))]


def start(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "efface.embeddings", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_when(process: "subprocess.Popen[str]", is_time: Any) -> None:
    while not is_time():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_killed_fit_continues_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = many(tmp_path / "in")
    run("fit", *shards, "--out", tmp_path / "whole")
    partial = tmp_path / ".eraser.0-of-1.partial"
    kill_when(start("fit", *shards, "--out", tmp_path / "eraser", "--checkpoint", 0), partial.exists)
    assert not (tmp_path / "eraser").exists()
    batches, update = [], LeaceFitter.update

    def counted(self: LeaceFitter, *args: Any, **options: Any) -> LeaceFitter:
        batches.append(1)
        return update(self, *args, **options)

    monkeypatch.setattr(LeaceFitter, "update", counted)
    run("fit", *shards, "--out", tmp_path / "eraser")
    assert 0 < len(batches) < MANY
    assert (tmp_path / "eraser").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == ["eraser", "in", "whole"]


@pytest.mark.parametrize("change", ["method", "content", "damage"])
def test_checkpoint_of_something_else_is_not_continued(
    tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = write(tmp_path / "in")
    bad = np.load(shards[2])
    good = bad.copy()
    bad[5, 3] = np.nan
    np.save(shards[2], bad)
    run("fit", *shards, "--out", tmp_path / "eraser", "--checkpoint", 0, status=2)
    partial = tmp_path / ".eraser.0-of-1.partial"
    assert "row 5" in capsys.readouterr().err
    options = ["--no-shrinkage"] if change == "method" else []
    if change == "damage":
        partial.write_bytes(partial.read_bytes()[:-1])
    np.save(shards[2], good)
    if change == "content":
        np.save(shards[0], np.load(shards[0]) * 2)
    run("fit", *shards, "--out", tmp_path / "eraser", *options)
    run("fit", *shards, "--out", tmp_path / "whole", *options)
    assert (tmp_path / "eraser").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not partial.exists()


def test_killed_apply_continues_with_the_shards_that_are_missing(tmp_path: Path) -> None:
    shards, out = many(tmp_path / "in"), tmp_path / "out"
    run("fit", *shards, "--out", tmp_path / "eraser")
    alone = shards[:MANY]
    run("apply", tmp_path / "eraser", *alone, "--out", tmp_path / "whole")
    process = start("apply", tmp_path / "eraser", *alone, "--out", out)
    kill_when(process, lambda: out.is_dir() and len(list(out.glob("x*.npy"))) > 3)
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("x*.npy")}
    assert 3 < len(done) < MANY
    run("apply", tmp_path / "eraser", *alone, "--out", out)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in out.iterdir()) == names
    assert all((out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)
    assert all((out / name).stat().st_mtime_ns == time_ for name, time_ in done.items())


def test_shard_that_changed_is_erased_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = write(tmp_path / "in", "safetensors")
    run("fit", *shards, "--out", tmp_path / "eraser")
    run("apply", tmp_path / "eraser", *shards, "--out", tmp_path / "out")
    later = time.time() + 10
    os.utime(shards[1], (later, later))
    capsys.readouterr()
    run("apply", tmp_path / "eraser", *shards, "--out", tmp_path / "out")
    assert "1 shards erased, 2 were done before" in capsys.readouterr().out


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


def work(rank: int, ports: list[int], folder: str, shards: list[str], statuses: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost")
    bad = [*shards[:1], f"{folder}/nan.npy", *shards[2:]]
    runs = {
        "fit": ("fit", *shards, "--out", f"{folder}/two"),
        "quadratic": ("fit", *shards, "--out", f"{folder}/quadratic", "--method", "quadratic"),
        "apply": ("apply", f"{folder}/one", *shards[: len(PARTS)], "--out", f"{folder}/applied"),
        "certify": ("certify", f"{folder}/two", *shards, "--json"),
        "above": ("certify", f"{folder}/two", *shards, "--tolerance", "1e-12"),
        "NaN": ("fit", *bad, "--out", f"{folder}/bad"),
    }
    for port, (name, arguments) in zip(ports, runs.items(), strict=True):
        os.environ["MASTER_PORT"] = str(port)  # one for each: the other process may still be closing the last
        with open(f"{folder}/{name}.{rank}.txt", "w") as sys.stdout, open(f"{folder}/{name}.{rank}.err", "w") as err:
            sys.stderr = err
            statuses[name, rank] = main(list(arguments))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Any, int]]:
    """A folder in which two processes have run each command, and their statuses."""
    folder = tmp_path_factory.mktemp("two")
    shards = write(folder / "in")
    run("fit", *shards, "--out", folder / "one")
    run("fit", *shards, "--out", folder / "one-quadratic", "--method", "quadratic")
    x = X[PARTS[1]].numpy().copy()
    x[0, 7] = np.nan
    np.save(folder / "nan.npy", x)
    with torch.multiprocessing.get_context("fork").Manager() as manager:
        statuses = manager.dict()
        arguments = (free_ports(6), str(folder), shards, statuses)
        torch.multiprocessing.start_processes(work, arguments, nprocs=2, start_method="fork")
        return folder, dict(statuses)


def test_two_processes_give_the_eraser_of_one(two: tuple[Path, dict[Any, int]]) -> None:
    folder, statuses = two
    assert {statuses[name, rank] for name in ("fit", "quadratic", "apply", "certify") for rank in (0, 1)} == {0}
    one, both = (LeaceEraser.load(folder / name) for name in ("one", "two"))
    torch.testing.assert_close(both(X), one(X), rtol=0, atol=1e-6)
    assert {path.suffix for path in folder.glob(".*")} == {".lock"}


def test_two_processes_share_the_shards(two: tuple[Path, dict[Any, int]]) -> None:
    folder, _ = two
    one = LeaceEraser.load(folder / "one")
    for i, rows in enumerate(PARTS):
        torch.testing.assert_close(torch.from_numpy(np.load(folder / "applied" / f"{i}.npy")), one(X[rows]))
    assert "3 shards erased" in (folder / "apply.0.txt").read_text()
    assert (folder / "apply.1.txt").read_text() == ""


def test_two_processes_certify_all_rows(two: tuple[Path, dict[Any, int]]) -> None:
    folder, statuses = two
    assert '"n": 1797' in (folder / "certify.0.txt").read_text()
    assert {statuses["above", rank] for rank in (0, 1)} == {1}


def test_error_of_one_process_ends_both(two: tuple[Path, dict[Any, int]]) -> None:
    folder, statuses = two
    assert {statuses["NaN", rank] for rank in (0, 1)} == {2}
    assert re.search(r"nan.npy has NaN or infinite values in row 0", (folder / "NaN.0.err").read_text())
    assert not (folder / "bad").exists()


@pytest.mark.slow
def test_torchrun_starts_them(tmp_path: Path) -> None:
    shards = write(tmp_path / "in", "safetensors")
    run("fit", *shards, "--out", tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "efface.embeddings", "fit", *shards, "--out", str(tmp_path / "two")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("leace of 1,797 rows") == 1
    one, both = (LeaceEraser.load(tmp_path / name) for name in ("one", "two"))
    torch.testing.assert_close(both(X), one(X), rtol=0, atol=1e-6)
