"""Folders and files that commands write to: what was made of other inputs is never taken for what is asked."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file
from tests.embeddings.digits import PARTS, X, Y, run, write

from efface.erasure.leace import LeaceEraser
from efface.erasure.oracle import OracleEraser


@pytest.fixture
def eraser(tmp_path: Path) -> Path:
    LeaceEraser.fit(X, Y).save(tmp_path / "eraser")
    return tmp_path / "eraser"


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return Path(write(tmp_path / "in")[0])


def erased(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(path))


def test_shard_of_the_same_name_elsewhere_is_refused(
    tmp_path: Path, eraser: Path, shard: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(write(tmp_path / "other", x=X * 7)[0])
    run("apply", eraser, shard, "--out", tmp_path / "out")
    before = erased(tmp_path / "out" / "0.npy")
    run("apply", eraser, other, "--out", tmp_path / "out", status=2)
    message = capsys.readouterr().err
    assert f"was made of {shard}, not of {other}: choose an empty folder, or remove it" in message
    assert torch.equal(erased(tmp_path / "out" / "0.npy"), before)


def test_shard_that_an_older_file_replaced_is_erased_anew(tmp_path: Path, eraser: Path, shard: Path) -> None:
    run("apply", eraser, shard, "--out", tmp_path / "out")
    np.save(shard, X[PARTS[0]].numpy() * 7)
    os.utime(shard, (1e9, 1e9))
    run("apply", eraser, shard, "--out", tmp_path / "out")
    expected = LeaceEraser.load(eraser)(X[PARTS[0]] * 7)
    torch.testing.assert_close(erased(tmp_path / "out" / "0.npy"), expected)


def test_file_that_was_put_beside_erased_shards_is_not_overwritten(
    tmp_path: Path, eraser: Path, shard: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("apply", eraser, shard, "--out", tmp_path / "out")
    np.save(tmp_path / "out" / "1.npy", X.numpy())
    run("apply", eraser, shard, shard.with_name("1.npy"), "--out", tmp_path / "out", status=2)
    assert "1.npy is there, and was not erased by this command" in capsys.readouterr().err
    assert torch.equal(erased(tmp_path / "out" / "1.npy"), X)


def test_refused_command_leaves_the_folder_to_the_next(tmp_path: Path, eraser: Path, shard: Path) -> None:
    LeaceEraser.fit(X[:, :9], Y % 2).save(tmp_path / "narrow")
    run("apply", tmp_path / "narrow", shard, "--out", tmp_path / "out", status=2)
    assert not (tmp_path / "out").exists()
    run("apply", eraser, shard, "--out", tmp_path / "out")


def test_labels_of_another_name_are_another_erasure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"x": X, "z": Y, "w": Y.flip(0)}, tmp_path / "x.safetensors")
    OracleEraser.fit(X, Y).save(tmp_path / "eraser")
    command = ("apply", tmp_path / "eraser", tmp_path / "x.safetensors", "--out", tmp_path / "out")
    run(*command)
    run(*command, "--z", "w", status=2)
    assert "has shards of another eraser or column" in capsys.readouterr().err


def test_mark_that_is_damaged_is_named(
    tmp_path: Path, eraser: Path, shard: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "erased_by.json").write_text("{")
    run("apply", eraser, shard, "--out", tmp_path / "out", status=2)
    assert "erased_by.json is damaged: choose an empty folder" in capsys.readouterr().err


def test_second_apply_waits_for_the_first(tmp_path: Path, eraser: Path, shard: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    second = threading.Thread(target=run, args=("apply", eraser, shard, "--out", out))
    with FileLock(out / ".erased_by.lock"):
        second.start()
        second.join(timeout=0.5)
        assert second.is_alive()
        assert not list(out.glob("*.npy"))
    second.join()
    assert (out / "0.npy").is_file()


def test_checkpoint_of_another_column_is_not_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, x in (("a", X), ("b", X * torch.nan)):
        save_file({"x": x, "y": X.flip(1).contiguous(), "z": Y}, tmp_path / f"{name}.safetensors")
    shards = (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    run("fit", *shards, "--out", tmp_path / "eraser", "--checkpoint", 0, status=2)
    assert (tmp_path / ".eraser.0-of-1.partial").is_file()
    run("fit", *shards, "--x", "y", "--out", tmp_path / "eraser")
    run("fit", *shards, "--x", "y", "--out", tmp_path / "whole")
    assert (tmp_path / "eraser").read_bytes() == (tmp_path / "whole").read_bytes()


def test_fit_removes_what_it_left_itself_and_nothing_else(tmp_path: Path) -> None:
    shards = write(tmp_path / "in")
    mine = [tmp_path / name for name in (".er[1].0-of-2.partial", ".er[1].abcdefgh.tmp")]
    others = [tmp_path / name for name in (".er[1].safetensors.abcdefgh.tmp", ".er1.abcdefgh.tmp")]
    for path in (*mine, *others):
        path.write_text("")
    run("fit", *shards, "--out", tmp_path / "er[1]")
    assert not any(path.exists() for path in mine)
    assert all(path.exists() for path in others)
