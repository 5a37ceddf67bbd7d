import json
from pathlib import Path

import pytest

from efface.record import READABLE, Record

RECORD = Record(id="0" * 8, config={}, seed=0, fingerprint="f", status="done", metrics={"accuracy": 0.5, "x": None})


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(RECORD.to_json())
    assert Record.read(path) == RECORD


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        RECORD.model_copy(update={"metrics": {"accuracy": float("nan")}}).to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: {**r, "surprise": 1}, "damaged or of another version"),
        (lambda r: {k: v for k, v in r.items() if k != "status"}, "damaged or of another version"),
        (lambda r: {**r, "artifacts": {"../secret": "00"}}, "files beside the record, but '../secret' is not"),
        (lambda r: {**r, "schema_version": 99}, "schema version 99, of a later efface"),
        (lambda r: {**r, "schema_version": 1, "artifacts": ["a"]}, "schema version 1, of an earlier efface.*overwrite"),
    ],
)
def test_another_schema_is_named(tmp_path: Path, change: object, message: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(change(json.loads(RECORD.to_json()))))  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        Record.read(path)


def test_names_of_version_1_have_no_digests(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    content = json.loads(RECORD.to_json()) | {"schema_version": 1, "artifacts": ["debiased.safetensors"]}
    path.write_text(json.dumps(content))
    assert Record.read(path, versions=READABLE).artifacts == {"debiased.safetensors": None}


def test_a_truncated_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(RECORD.to_json()[:40])
    with pytest.raises(ValueError, match=r"record\.json is damaged"):
        Record.read(path)
