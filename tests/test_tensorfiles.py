"""A file is data: what it names is never imported, and what is damaged is not believed."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import efface
from efface import tensorfiles
from efface.debiased import Debiased
from efface.representations import KINDS, Representation

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(True), "c": torch.ones(3, dtype=torch.bfloat16)}


def test_tensors_are_read_as_written(tmp_path: Path) -> None:
    tensorfiles.write(tmp_path / "file", TENSORS, kind="thing", facts={"n": 3})
    tensors, facts = tensorfiles.read(tmp_path / "file", kind="thing")
    assert facts == {"n": 3}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_products_of_tensors_that_are_read_are_those_of_what_was_written(tmp_path: Path) -> None:
    """Wherever the file has them: products of float32 round differently where memory is not aligned."""
    x, head = torch.randn(50, 33), torch.nn.Linear(33, 2)
    for length in range(16):
        tensorfiles.write(tmp_path / "file", {"x": x}, kind="thing", facts={"text": length * "a"})
        tensors, _ = tensorfiles.read(tmp_path / "file", kind="thing")
        assert tensors["x"].data_ptr() % 16 == 0
        assert torch.equal(head(tensors["x"]), head(x))


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    """Covers faults C6."""
    for name in "abcdefgh":
        tensorfiles.write(tmp_path / name, dict(reversed(TENSORS.items())), kind="thing", facts={"n": 3, "m": 1})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_changed_byte_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    """Covers faults B6."""
    path = tmp_path / "file"
    tensorfiles.write(path, TENSORS, kind="thing", facts={"n": 3})
    content = path.read_bytes()
    for i in range(8, len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        refused, (tensors, facts) = None, (TENSORS, {"n": 3})
        try:
            tensors, facts = tensorfiles.read(path, kind="thing")
        except ValueError as error:
            refused = str(error)
        if refused is None:  # a blank of the header
            assert facts == {"n": 3}
            assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
        else:
            assert str(path) in refused


def test_forged_facts_that_are_no_mapping_are_refused(tmp_path: Path) -> None:
    checksum = hashlib.sha256(f"thing\n[1]\n{tensorfiles.content_digest(TENSORS)}".encode()).hexdigest()
    save_file(TENSORS, tmp_path / "file", metadata={"efface": "thing", "facts": "[1]", "sha256": checksum})
    with pytest.raises(ValueError, match="its facts are no mapping"):
        tensorfiles.read(tmp_path / "file", kind="thing")


def test_another_kind_is_named(tmp_path: Path) -> None:
    tensorfiles.write(tmp_path / "file", TENSORS, kind="thing")
    with pytest.raises(ValueError, match="is not a saved other, it holds a saved thing"):
        tensorfiles.read(tmp_path / "file", kind="other")


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """Covers faults B5."""
    path = tmp_path / "file"
    tensorfiles.write(path, TENSORS, kind="thing")
    with pytest.raises(ValueError, match="not JSON compliant"):
        tensorfiles.write(path, TENSORS, kind="thing", facts={"n": float("nan")})
    tensorfiles.read(path, kind="thing")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def finished(folder: Path) -> Path:
    """A folder that looks like a finished run."""
    (folder / "record.json").write_text(json.dumps({"status": "done", "artifacts": ["debiased.safetensors"]}))
    head = nn.Linear(3, 2)
    Debiased(represent=Representation(), head=head).save(folder / "debiased.safetensors")
    return folder


def test_loading_imports_nothing_that_a_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Covers faults A1."""
    run = finished(tmp_path)
    (tmp_path / "helper_layers.py").write_text(f"open({str(tmp_path / 'PWNED')!r}, 'w').write('x')")
    monkeypatch.syspath_prepend(tmp_path)
    path = run / "debiased.safetensors"
    # As version 1 had it, and as a forger of this version would write it.
    save_file(load_file(path), path, metadata={"represent": json.dumps(["helper_layers", "X"]), "cut": "1"})
    with pytest.raises(ValueError, match="is not a saved debiased model"):
        efface.load(run)
    tensors = {"head.weight": torch.zeros(2, 3)}
    tensorfiles.write(path, tensors, kind="debiased model", facts={"represent": "helper_layers.X", "cut": 1})
    with pytest.raises(ValueError, match=r"kind 'helper_layers.X', but this version of efface knows unchanged, affine"):
        efface.load(run)
    for kind in (["affine"], {"affine": 1}, None, 3):
        tensorfiles.write(path, tensors, kind="debiased model", facts={"represent": kind, "cut": 1})
        with pytest.raises(ValueError, match="but this version of efface knows"):
            efface.load(run)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("content", ["", "[]", "3", '{"id": 1}', 100_000 * "[", '{"status": "done", "artifacts": 3}'])
def test_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    """Covers faults A1."""
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(ValueError, match=r"record.json is damaged .*overwrite=true"):
        efface.load(tmp_path)


@pytest.mark.parametrize("record", [{"status": "not_applicable", "reason": "why", "artifacts": None}])
def test_run_without_a_model_says_why(tmp_path: Path, record: dict) -> None:
    (tmp_path / "record.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"holds no model: its run is not_applicable \(why\)"):
        efface.load(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "facts"),
    [
        ({}, {"represent": "unchanged", "cut": 1}),
        ({"head.weight": torch.zeros(2, 3)}, {"represent": "affine", "cut": 1}),
        ({"head.weight": torch.zeros(2, 3), "head.bias": torch.zeros(5)}, {"represent": "unchanged", "cut": 1}),
        ({"head.weight": torch.zeros(2, 3), "represent.x": torch.zeros(1)}, {"represent": "unchanged", "cut": 1}),
        ({"head.weight": torch.zeros(2, 3)}, {"represent": "unchanged"}),
        ({"head.weight": torch.zeros(2, 3)}, {"represent": "unchanged", "cut": "many"}),
        ({"head.weight": torch.zeros(3)}, {"represent": "unchanged", "cut": 1}),
        ({"head.weight": torch.zeros(2, 3)}, {"represent": "unchanged", "cut": 0}),
        ({"head.weight": torch.zeros(2, 3)}, {"represent": "unchanged", "cut": 1.5}),
        ({"head.weight": torch.zeros(2, 3)}, {"represent": "rectified", "cut": 1}),
        (
            {"head.weight": torch.zeros(2, 3), "represent.weight_1": torch.zeros(3, 3)},
            {"represent": "rectified", "cut": 1},
        ),
        ({"head.weight": torch.zeros(2, 3), "other": torch.zeros(1)}, {"represent": "unchanged", "cut": 1}),
    ],
)
def test_a_file_with_a_part_missing_is_named(tmp_path: Path, tensors: dict, facts: dict) -> None:
    """Covers faults A1."""
    tensorfiles.write(tmp_path / "file", tensors, kind="debiased model", facts=facts)
    with pytest.raises(ValueError, match="lacks a part of a saved debiased model"):
        Debiased.load(tmp_path / "file")


def test_every_representation_has_a_kind_of_its_own() -> None:
    def below(cls: type[Representation]) -> list[type[Representation]]:
        return [cls, *(each for sub in cls.__subclasses__() for each in below(sub))]

    concrete = [cls for cls in below(Representation) if cls.__module__ == "efface.representations"]
    assert {cls.kind for cls in concrete if "kind" in vars(cls)} == KINDS.keys()


def test_a_scrubbing_run_says_that_it_holds_erasers(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps({"status": "done", "artifacts": ["scrubber.safetensors"]}))
    with pytest.raises(ValueError, match=r"ConceptScrubber\.load"):
        efface.load(tmp_path)


class Foreign(Representation):
    """A map that is in no table."""

    kind = "foreign"


class Disguised(Representation):
    """A map that borrows another one's kind."""


@pytest.mark.parametrize("represent", [Foreign(), Disguised()])
def test_a_representation_that_could_not_be_loaded_is_not_saved(tmp_path: Path, represent: Representation) -> None:
    with pytest.raises(ValueError, match=r"add it to efface\.representations\.KINDS"):
        Debiased(represent=represent, head=nn.Linear(3, 2)).save(tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_a_model_that_was_exchanged_is_not_loaded(tmp_path: Path) -> None:
    """Covers faults A6: whole, but of another run than the record beside it."""
    run = finished(tmp_path)
    path = run / "debiased.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (run / "record.json").write_text(json.dumps({"status": "done", "artifacts": {path.name: digest}}))
    assert efface.load(run).cut == 1
    Debiased(represent=Representation(), head=nn.Linear(3, 2)).save(path)
    with pytest.raises(ValueError, match=r"is not the model of .*record\.json: it was exchanged since"):
        efface.load(run)


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    tensor = torch.arange(6.0)
    tensorfiles.write(tmp_path / "file", {"a": tensor, "b": tensor, "c": tensor[:2]}, kind="thing")
    tensors, _ = tensorfiles.read(tmp_path / "file", kind="thing")
    assert torch.equal(tensors["b"], tensor)
    assert torch.equal(tensors["c"], tensor[:2])
