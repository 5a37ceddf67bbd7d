import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.conftest import read_only

from efface.cache import cached, cached_array
from efface.files import write_atomically

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flip": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "truncate": lambda content: content[:-4],
    "empty": lambda content: b"",
}


def build_counter(calls: list[int], value: float = 1.0):
    def build() -> tuple[dict[str, torch.Tensor], dict]:
        calls.append(1)
        return {"x": torch.full((3,), value)}, {"seconds": value}

    return build


def test_an_entry_is_built_once_for_its_key(tmp_path: Path) -> None:
    calls: list[int] = []
    tensors, facts, hit = cached(tmp_path, "model", {"seed": 0}, build_counter(calls))
    assert not hit
    again, facts_again, hit = cached(tmp_path, "model", {"seed": 0}, build_counter(calls, 2.0))
    assert hit
    assert torch.equal(again["x"], tensors["x"])
    assert facts_again == facts
    _, _, hit = cached(tmp_path, "model", {"seed": 1}, build_counter(calls))
    assert not hit
    assert len(calls) == 2


def test_what_is_built_lies_in_memory_as_what_is_read_later(tmp_path: Path) -> None:
    """Products round as the layout asks: a run that builds an entry and one that finds it must not differ."""
    transposed = torch.randn(5, 3).T
    tensors, _, _ = cached(tmp_path, "model", {"seed": 0}, lambda: ({"x": transposed}, {}))
    again, _, _ = cached(tmp_path, "model", {"seed": 0}, lambda: ({}, {}))
    assert tensors["x"].stride() == again["x"].stride() == (5, 1)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "other_key", "other_facts"])
def test_a_damaged_entry_is_noticed_dropped_and_rebuilt(tmp_path: Path, damage: str) -> None:
    cached(tmp_path, "model", {"seed": 0}, build_counter([]))
    path = next(tmp_path.rglob("*.safetensors"))
    if damage in DAMAGES:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    elif damage == "other_key":
        cached(tmp_path, "model", {"seed": 1}, build_counter([]))
        other = next(file for file in tmp_path.rglob("*.safetensors") if file != path)
        path.write_bytes(other.read_bytes())
    else:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        save_file(load_file(path), path, {**metadata, "facts": metadata["facts"].replace("1.0", "0.5")})
    calls: list[int] = []
    with pytest.warns(UserWarning, match="is damaged"):
        cached(tmp_path, "model", {"seed": 0}, build_counter(calls))
    assert calls == [1]
    assert cached(tmp_path, "model", {"seed": 0}, build_counter(calls))[2]


def test_a_read_only_cache_can_be_read_and_says_so_before_it_builds(tmp_path: Path) -> None:
    """Covers faults B4."""
    whole = np.arange(24, dtype=np.uint8).reshape(6, 4)
    calls: list[int] = []
    cached(tmp_path, "model", {"seed": 0}, build_counter([]))
    cached_array(tmp_path, "images", {}, whole.shape, lambda: [whole])
    for lock in tmp_path.rglob("*.lock"):
        lock.unlink()
    with read_only(tmp_path):
        assert cached(tmp_path, "model", {"seed": 0}, build_counter(calls))[2]
        np.testing.assert_array_equal(cached_array(tmp_path, "images", {}, whole.shape, lambda: [whole]), whole)
        for kind in ("model", "features"):
            with pytest.raises(OSError, match=rf"cannot write to .*{kind}.*: set cache_dir="):
                cached(tmp_path, kind, {"seed": 1}, build_counter(calls))
    assert calls == []


def _slow(folder: Path, log: Path) -> None:
    def build() -> tuple[dict[str, torch.Tensor], dict]:
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(0.5)
        return {"x": torch.ones(1)}, {}

    cached(folder, "model", {"seed": 0}, build, say=lambda message: None)


def test_two_processes_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_slow, args=(tmp_path, tmp_path / "log")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_killed_builder_leaves_no_lock_and_no_entry(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_slow, args=(tmp_path, tmp_path / "log"))
    process.start()
    while not (tmp_path / "log").exists():
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    calls: list[int] = []
    assert not cached(tmp_path, "model", {"seed": 0}, build_counter(calls))[2]
    assert calls == [1]


def test_an_array_is_announced_after_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def spy(path: Path, write: Callable[[Path], object]) -> None:
        written.append(path.suffix)
        write_atomically(path, write)

    monkeypatch.setattr("efface.cache.write_atomically", spy)
    cached_array(tmp_path, "images", {}, (2,), lambda: [np.zeros(2, np.uint8)])
    assert written == [".npy", ".json"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    """Covers faults B5."""
    path = tmp_path / "file"
    write_atomically(path, lambda p: p.write_text("old"))

    def interrupted(p: Path) -> None:
        p.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_says_what_to_do(tmp_path: Path) -> None:
    def full(p: Path) -> None:
        with open("/dev/full", "w") as file:
            file.write("x" * 10)

    with pytest.raises(OSError, match="free some space, or choose another place with results_dir"):
        write_atomically(tmp_path / "file", full)
    assert list(tmp_path.iterdir()) == []


def test_an_array_is_written_in_chunks_once_and_mapped(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(0, 256, (10, 3, 2), dtype=np.uint8)
    calls: list[int] = []

    def chunks():
        calls.append(1)
        buffer = np.empty((4, 3, 2), np.uint8)
        for at in (0, 4, 8):  # one buffer for all: each chunk is on disk before the next is made
            part = buffer[: len(whole[at : at + 4])]
            part[:] = whole[at : at + 4]
            yield part

    for _ in range(2):
        array = cached_array(tmp_path, "images", {"size": 1}, whole.shape, chunks)
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, whole)
    assert len(calls) == 1
    cached_array(tmp_path, "images", {"size": 2}, whole.shape, chunks)
    assert len(calls) == 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "no_array", "empty_json"])
def test_a_damaged_array_is_noticed_dropped_and_rebuilt(tmp_path: Path, damage: str) -> None:
    whole = np.arange(24, dtype=np.uint8).reshape(6, 4)
    cached_array(tmp_path, "images", {}, whole.shape, lambda: [whole])
    (data,), (meta,) = tmp_path.rglob("*.npy"), tmp_path.rglob("*.json")
    if damage in DAMAGES:
        data.write_bytes(DAMAGES[damage](data.read_bytes()))
    elif damage == "no_array":
        data.unlink()
    else:
        meta.write_text("")
    with pytest.warns(UserWarning, match="is damaged"):
        array = cached_array(tmp_path, "images", {}, whole.shape, lambda: [whole])
    np.testing.assert_array_equal(array, whole)


def test_an_array_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def chunks():
        yield np.zeros((2, 2), np.uint8)
        raise ValueError("no such image")

    with pytest.raises(ValueError, match="no such image"):
        cached_array(tmp_path, "images", {}, (4, 2), chunks)
    assert [path.suffix for path in (tmp_path / "images").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.zeros((3, 2), np.uint8), r"they have 6 bytes, not \[4, 2\]"),
        (np.zeros((5, 2), np.uint8), r"they have 10 bytes, not \[4, 2\]"),
        (np.zeros((4, 2), np.float32), "one has dtype float32, but must be uint8"),
    ],
)
def test_chunks_that_are_not_the_array_are_refused(tmp_path: Path, chunk: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cached_array(tmp_path, "images", {}, (4, 2), lambda: [chunk], say=print)
    assert not list(tmp_path.rglob("*.npy"))
