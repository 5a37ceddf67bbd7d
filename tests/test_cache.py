import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from efface.cache import cached, write_atomically


def build_counter(calls: list[int], value: float = 1.0):
    def build() -> tuple[dict[str, torch.Tensor], dict]:
        calls.append(1)
        return {"x": torch.full((3,), value)}, {"seconds": value}

    return build


def test_built_once_per_key(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "damage", ["flip", "truncate", "no_tensors", "no_json", "empty_json", "other_key", "other_facts"]
)
def test_a_damaged_entry_is_noticed_dropped_and_rebuilt(tmp_path: Path, damage: str) -> None:
    cached(tmp_path, "model", {"seed": 0}, build_counter([]))
    data, meta = next(tmp_path.rglob("*.safetensors")), next(tmp_path.rglob("*.json"))
    content = data.read_bytes()
    if damage == "flip":
        data.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "truncate":
        data.write_bytes(content[:-4])
    elif damage == "no_tensors":
        data.unlink()
    elif damage == "no_json":
        meta.unlink()
    elif damage == "empty_json":
        meta.write_text("")
    else:
        change = {"other_key": {"key": "{}"}, "other_facts": {"facts": {"seconds": 0.123}}}[damage]
        meta.write_text(json.dumps({**json.loads(meta.read_text()), **change}))
    calls: list[int] = []
    if damage == "no_json":  # never finished: no damage, no warning
        cached(tmp_path, "model", {"seed": 0}, build_counter(calls))
    else:
        with pytest.warns(UserWarning, match="is damaged"):
            cached(tmp_path, "model", {"seed": 0}, build_counter(calls))
    assert calls == [1]
    assert cached(tmp_path, "model", {"seed": 0}, build_counter(calls))[2]


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


def test_no_entry_is_announced_before_its_tensors_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, write: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("efface.cache.write_atomically", fail)
    with pytest.raises(OSError, match="disk full"):
        cached(tmp_path, "model", {"seed": 0}, build_counter([]))
    written: list[str] = []
    monkeypatch.setattr("efface.cache.write_atomically", lambda path, write: written.append(path.suffix))
    cached(tmp_path, "model", {"seed": 0}, build_counter([]))
    assert written == [".safetensors", ".json"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
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
