"""What keeps a run from taking models and features of the cache that are not its own."""

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from efface.data.base import Dataset
from efface.runs import base
from efface.runs.base import FingerprintError
from efface.runs.grid import GridRun

Build = Callable[..., GridRun]
QUIET = {"say": lambda message: None}


def test_cached_models_of_data_that_changed_while_they_were_read_are_not_used(
    parts_of: Build, mini: Dataset, tmp_path: Path
) -> None:
    class Changed:
        """Files that hold new data from the moment on when the old ones have been read."""

        now = mini.fingerprint

        def fingerprint(self, data_dir: Path) -> str:
            return self.now

        def load(self, **options: Any) -> Dataset:
            before, self.now = self.now, "new"
            return replace(mini, fingerprint=before)

    cheap = ["training.epochs=1", "evaluation.probe=false", "evaluation.mlp_probe=false"]
    parts = replace(parts_of(*cheap), dataset=Changed(), cache_dir=tmp_path / "cache", results_dir=tmp_path / "results")
    with pytest.raises(FingerprintError, match="the data changed while the run worked"):
        base.execute(parts, **QUIET)
    record = base.execute(parts, **QUIET)
    assert record.fingerprint == "new"
    assert record.run["cache_hit"]["model"] is False


@pytest.mark.slow
def test_versions_of_a_models_code_are_recorded_and_share_no_features(
    parts_of: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")
    network = ["model=timm", "model.architecture=test_resnet", "model.pretrained=false", "training.epochs=0"]
    parts = parts_of(*network, "evaluation.probe=false", "evaluation.mlp_probe=false")
    record = base.execute(replace(parts, results_dir=tmp_path / "one"), **QUIET)
    assert record.run["versions"]["timm"] == version("timm")
    monkeypatch.setattr("efface.models.base.version", lambda name: "0.1")
    other = base.execute(replace(parts, results_dir=tmp_path / "other"), **QUIET)
    assert other.run["cache_hit"] == {"features": False}
