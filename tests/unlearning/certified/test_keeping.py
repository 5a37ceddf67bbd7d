import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tests.unlearning.certified.models import D, model, samples, true_norm

from efface import tensorfiles
from efface.unlearning.certified.release import CertifiedRelease
from efface.unlearning.certified.removal import CertifiedLogisticRegression

OWNER = "CertifiedLogisticRegression"


def saved(path: Path) -> CertifiedLogisticRegression:
    fitted = model()
    fitted.remove([0, 7, 399])
    fitted.release()
    fitted.save(path)
    return fitted


def loaded(path: Path, fitted: CertifiedLogisticRegression) -> CertifiedLogisticRegression:
    x, y = samples()
    return CertifiedLogisticRegression.load(path, x[fitted.remaining], y[fitted.remaining])


def test_saved_model_goes_on(tmp_path: Path) -> None:
    fitted = saved(tmp_path / "model")
    again = loaded(tmp_path / "model", fitted)
    assert torch.equal(again.exact_theta, fitted.exact_theta)
    assert again.release().certificate == fitted.release().certificate
    for i in range(10, 40):
        again.remove([i])
    assert again.remaining.tolist() == [i for i in fitted.remaining.tolist() if not 10 <= i < 40]
    assert true_norm(again.exact_theta, 2, again.remaining) <= again.residual
    with pytest.raises(ValueError, match="removed before"):
        again.remove([7])


def test_published_file_holds_the_release_and_nothing_else(tmp_path: Path) -> None:
    fitted = saved(tmp_path / "model")
    release = fitted.release()
    release.save(tmp_path / "release")
    with safe_open(tmp_path / "release", framework="pt") as file:
        assert list(file.keys()) == ["theta"]
        assert file.get_tensor("theta").shape == (D + 1, 1)
    assert fitted.exact_theta.numpy().tobytes()[:8] not in (tmp_path / "release").read_bytes()
    again = CertifiedRelease.load(tmp_path / "release")
    assert torch.equal(again.theta, release.theta)
    assert again.certificate == release.certificate
    assert torch.equal(again.predict(samples()[0]), release.predict(samples()[0]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        again.certificate.noise = 0.0  # type: ignore[misc]


def test_neither_file_is_taken_for_the_other(tmp_path: Path) -> None:
    fitted = saved(tmp_path / "model")
    fitted.release().save(tmp_path / "release")
    with pytest.raises(ValueError, match="is not a saved CertifiedRelease"):
        CertifiedRelease.load(tmp_path / "model")
    with pytest.raises(ValueError, match="is not a saved CertifiedLogisticRegression"):
        loaded(tmp_path / "release", fitted)


def test_loading_asks_for_the_samples_that_are_left(tmp_path: Path) -> None:
    x, y = samples()
    rest = saved(tmp_path / "model").remaining
    other = rest.clone()
    other[[0, 1]] = other[[1, 0]]
    changed = x[rest].clone()
    changed[3, 3] += 1e-6
    for bad_x, bad_y in (
        (x, y),
        (x[other], y[other]),
        (changed, y[rest]),
        (x[rest], 1 - y[rest]),
        (x[rest, 1:], y[rest]),
    ):
        with pytest.raises(ValueError, match="`remaining`"):
            CertifiedLogisticRegression.load(tmp_path / "model", bad_x, bad_y)


@pytest.mark.parametrize("kind", ["model", "release"])
def test_one_flipped_byte_is_seen(kind: str, tmp_path: Path) -> None:
    """Covers faults B6."""
    fitted = saved(tmp_path / "model")
    fitted.release().save(tmp_path / "release")
    content = bytearray((tmp_path / kind).read_bytes())
    content[-3] ^= 1
    (tmp_path / kind).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        loaded(tmp_path / kind, fitted) if kind == "model" else CertifiedRelease.load(tmp_path / kind)


def test_weights_that_are_no_minimum_are_refined(tmp_path: Path) -> None:
    fitted = saved(tmp_path / "model")
    tensors, facts = tensorfiles.read(tmp_path / "model", kind=OWNER)
    tensors["exact_theta"] += 3.7
    tensorfiles.write(tmp_path / "model", tensors, kind=OWNER, facts=facts)
    again = loaded(tmp_path / "model", fitted)
    assert true_norm(again.exact_theta, 2, again.remaining) <= again.residual
    assert float((again.exact_theta - fitted.exact_theta).norm()) <= again.release().certificate.noise


@pytest.mark.parametrize(
    ("tensors", "facts", "message"),
    [
        ({"exact_theta": torch.zeros(D + 1, 2, dtype=torch.float64)}, {}, r"theta is \[9, 2\]"),
        ({"exact_theta": torch.full((D + 1, 1), torch.nan, dtype=torch.float64)}, {}, "NaN"),
        ({"remaining": torch.zeros(397, dtype=torch.int64)}, {}, "different numbers"),
        ({}, {"total": 5}, "different numbers"),
        ({}, {"releases": -5}, "releases is -5"),
        ({}, {"options": {"lam": 1e-2}}, "missing 2 required"),
        ({}, {"options": {"lam": -1.0, "epsilon": 1.0, "delta": 1e-4}}, "lam is -1.0"),
        ({}, {"n_classes": 1}, "n_classes 1"),
    ],
)
def test_wrong_content_under_a_right_checksum_is_named(
    tensors: dict[str, Any], facts: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Covers faults B6."""
    fitted = saved(tmp_path / "model")
    before = tensorfiles.read(tmp_path / "model", kind=OWNER)
    tensorfiles.write(tmp_path / "model", before[0] | tensors, kind=OWNER, facts=before[1] | facts)
    with pytest.raises(ValueError, match=f"is not a whole saved model .*{message}"):
        loaded(tmp_path / "model", fitted)


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"releases": 0}, "releases is 0"), ({"n": -1}, "n is -1"), ({"delta": 2.0}, "delta is 2.0")],
)
def test_certificate_that_cannot_be_is_refused(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    model().release().save(tmp_path / "release")
    tensors, facts = tensorfiles.read(tmp_path / "release", kind="CertifiedRelease")
    facts["certificate"] |= changed
    tensorfiles.write(tmp_path / "release", tensors, kind="CertifiedRelease", facts=facts)
    with pytest.raises(ValueError, match=f"is not a whole release .*{message}"):
        CertifiedRelease.load(tmp_path / "release")
