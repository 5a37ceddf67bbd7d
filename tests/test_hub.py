"""A fingerprint of a pretrained model changes with its weights, and is quick."""

import os
from pathlib import Path
from typing import Any

import pytest

from efface import hub
from efface.hub import folder_digest, hub_commit
from efface.scrubbing.language_models import PretrainedModel, TinyModel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(b"weights")
    return made


def test_digest_of_a_folder_follows_its_files(folder: Path, tmp_path: Path) -> None:
    """Covers faults A7."""
    cache = tmp_path / "cache"
    before = folder_digest(folder, cache)
    (folder / ".lock").write_text("hidden")
    assert folder_digest(folder, cache) == before
    (folder / "model.safetensors").write_bytes(b"weighty")
    changed = folder_digest(folder, cache)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert len({before, changed, folder_digest(folder, cache)}) == 3
    assert PretrainedModel(path=str(folder)).fingerprint(cache) == folder_digest(folder, cache)
    assert TinyModel(architecture="llama").fingerprint(cache) == ""


def test_a_large_file_is_read_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_LARGE", 5)
    cache = tmp_path / "cache"
    before = folder_digest(folder, cache)
    reads: list[Path] = []
    monkeypatch.setattr(hub, "file_digest", lambda path: reads.append(path) or "0" * 64)
    assert folder_digest(folder, cache) != before  # of config.json, which is small
    assert [path.name for path in reads] == ["config.json"]
    os.utime(folder / "model.safetensors", ns=(1, 1))
    folder_digest(folder, cache)
    assert [path.name for path in reads][-1] == "model.safetensors"


def test_a_model_of_the_hub_is_known_by_its_commit(tmp_path: Path, monkeypatch: Any) -> None:
    """Covers faults A7."""
    import huggingface_hub

    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file, revision: str(snapshot / file))
    assert PretrainedModel(path="org/name").fingerprint(tmp_path) == "0123abc"
    assert hub_commit("org/name", "v1") == "0123abc"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file, revision: None)

    def unreachable(name: str, **options: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "model_info", unreachable)
    with pytest.raises(ValueError, match=r"path: org/name cannot be loaded \(no network\)"):
        hub_commit("org/name")
    with pytest.raises(ValueError, match="path: org/name at revision v1 cannot be loaded"):
        hub_commit("org/name", "v1")


def test_a_revision_of_the_hub_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names, revision: asked.append(revision))

    def info(name: str, *, revision: str | None, timeout: float) -> Any:
        asked.append(revision)
        return huggingface_hub.ModelInfo(id=name, sha="0123abc")

    monkeypatch.setattr(huggingface_hub, "model_info", info)
    assert hub_commit("org/name", "v1") == "0123abc"
    assert asked == ["v1", "v1"]


def test_a_folder_has_no_revision(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"revision is v1, but .*model is a folder, which has none"):
        PretrainedModel(path=str(folder), revision="v1").fingerprint(tmp_path)
