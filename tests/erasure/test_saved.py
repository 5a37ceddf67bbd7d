"""Files of erasers and scrubbers: whole or not there, and refused where they are damaged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.erasure.test_leace import data

import efface
from efface import tensorfiles
from efface.erasure.frozen import FrozenTensors
from efface.erasure.leace import LeaceEraser
from efface.erasure.oracle import OracleEraser
from efface.erasure.quadratic import QuadraticEraser, QuadraticFitter
from efface.scrubbing import ConceptScrubber


def erasers() -> dict[str, Any]:
    x, _, y = data()
    fitter = QuadraticFitter.fit(x, y)
    scrubber = ConceptScrubber(erasers={"layers.0.norm": LeaceEraser.fit(x, y)})
    return {
        "leace": LeaceEraser.fit(x, y),
        "oracle": OracleEraser.fit(x, y),
        "quadratic": fitter.eraser,
        "editor": fitter.editor(),
        "scrubber": scrubber,
    }


@pytest.mark.parametrize("name", ["leace", "oracle", "quadratic", "editor", "scrubber"])
def test_a_flipped_byte_is_noticed(tmp_path: Path, name: str) -> None:
    """Covers faults B6: one flipped byte in a saved eraser mapped to 5.9e35."""
    saved, file = erasers()[name], tmp_path / "file"
    saved.save(file)
    content = file.read_bytes()
    type(saved).load(file)
    for place in (len(content) - 1, len(content) // 2, len(content) * 3 // 4):
        file.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
        with pytest.raises(ValueError, match="file"):
            type(saved).load(file)


def test_scrubber_saves_every_public_eraser_that_it_can_hold(tmp_path: Path) -> None:
    x, _, y = data()
    fitted = {
        "InlpEraser": efface.InlpEraser.fit(x, y, iterations=2),
        "LeaceEraser": LeaceEraser.fit(x, y),
        "MeanProjectionEraser": efface.MeanProjectionEraser.fit(x, y),
        "RlaceEraser": efface.RlaceEraser.fit(x, y, rank=1),
        "SplinceEraser": efface.SplinceEraser.fit(x, y, torch.arange(len(x)) % 2),
    }
    fitted["AffineEraser"] = fitted["LeaceEraser"].then(fitted["InlpEraser"])
    for name in ("PcaEraser", "RandomProjectionEraser"):
        fitted[name] = getattr(efface, name).orthogonal(torch.eye(x.shape[1])[:, :2], None)
    public = {
        name: kind
        for name in efface.__all__
        if isinstance(kind := getattr(efface, name), type) and issubclass(kind, efface.AffineEraser)
    }
    assert fitted.keys() == public.keys()
    ConceptScrubber(erasers=fitted).save(tmp_path / "file")
    loaded = ConceptScrubber.load(tmp_path / "file").erasers
    for name, eraser in fitted.items():
        assert type(loaded[name]) is public[name]
        assert torch.equal(loaded[name](x), eraser(x))


@pytest.mark.parametrize("name", ["leace", "scrubber"])
def test_a_failed_save_leaves_the_file_as_it_was(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Covers faults B5: on a full disk the new file and the old one were both lost."""
    saved, file = erasers()[name], tmp_path / "file"
    saved.save(file)
    content = file.read_bytes()
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        write(path, data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        saved.to(torch.float32).save(file)
    assert file.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


LEFT, RIGHT = torch.zeros(12, 3), torch.zeros(3, 12)


@pytest.mark.parametrize(
    ("kind", "tensors", "message"),
    [
        (LeaceEraser, {"proj_left": LEFT}, "lacks a part of a saved LeaceEraser"),
        (LeaceEraser, {"proj_left": LEFT, "proj_right": RIGHT, "more": LEFT}, "lacks a part"),
        (LeaceEraser, {"proj_left": LEFT, "proj_right": LEFT}, r"proj_right of shape \[12, 3\], which does not fit"),
        (LeaceEraser, {"proj_left": LEFT, "proj_right": RIGHT, "bias": torch.zeros(11)}, r"bias of shape \[11\]"),
        (LeaceEraser, {"proj_left": LEFT[0], "proj_right": RIGHT}, r"proj_left of shape \[3\]"),
        (LeaceEraser, {"proj_left": LEFT * torch.nan, "proj_right": RIGHT}, "NaN or infinite values in proj_left"),
        (OracleEraser, {"coef": LEFT, "mean_z": torch.zeros(4)}, r"mean_z of shape \[4\]"),
        (
            QuadraticEraser,
            {"class_means": RIGHT, "global_mean": torch.zeros(12), "ot_maps": torch.zeros(3, 12, 11)},
            r"ot_maps of shape \[3, 12, 11\]",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    tmp_path: Path, kind: type[FrozenTensors], tensors: dict[str, torch.Tensor], message: str
) -> None:
    """Covers faults B6, C: factors of unlike shape and NaN were taken, and a missing part was a TypeError."""
    copies = {name: tensor.clone() for name, tensor in tensors.items()}  # which share no memory
    tensorfiles.write(tmp_path / "file", copies, kind=kind.__name__)
    with pytest.raises(ValueError, match=message):
        kind.load(tmp_path / "file")


@pytest.mark.parametrize(
    ("facts", "change", "message"),
    [
        ({}, {}, "lacks a part of a saved"),
        ({"erasers": {"a": "LeaceEraser", "b": "LeaceEraser"}}, {}, "lacks a part of a saved"),
        ({"erasers": {"a": "os.system"}}, {}, "lacks a part of a saved"),
        ({"erasers": ["a"]}, {}, "lacks a part of a saved"),
        ({"erasers": {"a": "LeaceEraser"}}, {"a/proj_right": LEFT}, "file: a holds proj_right of shape"),
    ],
)
def test_scrubber_of_unfit_parts_is_refused(
    tmp_path: Path, facts: dict[str, Any], change: dict[str, torch.Tensor], message: str
) -> None:
    """Covers faults C: a loaded safetensors without its tensors was a KeyError."""
    parts = {"a/proj_left": LEFT, "a/proj_right": RIGHT, **change}
    tensors = {name: tensor.clone() for name, tensor in parts.items()}
    tensorfiles.write(tmp_path / "file", tensors, kind="ConceptScrubber", facts={"pre_hook": False, **facts})
    with pytest.raises(ValueError, match=message):
        ConceptScrubber.load(tmp_path / "file")
