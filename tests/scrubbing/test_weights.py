"""A fingerprint of a pretrained model changes with its weights, and is quick."""

import os
from pathlib import Path
from typing import Any

import pytest

from efface.scrubbing import weights
from efface.scrubbing.language_models import PretrainedModel, TinyModel
from efface.scrubbing.weights import folder_digest, hub_commit


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
    monkeypatch.setattr(weights, "_LARGE", 5)
    cache = tmp_path / "cache"
    before = folder_digest(folder, cache)
    reads: list[Path] = []
    monkeypatch.setattr(weights, "file_digest", lambda path: reads.append(path) or "0" * 64)
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
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: str(snapshot / file))
    assert PretrainedModel(path="org/name").fingerprint(tmp_path) == "0123abc"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: None)

    def unreachable(name: str, **options: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "model_info", unreachable)
    with pytest.raises(ValueError, match=r"path: org/name cannot be loaded \(no network\)"):
        hub_commit("org/name")
