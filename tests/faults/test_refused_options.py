"""Options that got through to raw errors or to no end, of every group: refused by name before anything is read."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from tests.conftest import CONF

from efface.cli import main as entry

NOT_FINITE = [
    ("training.lr=nan", "training.lr is nan, but must be finite"),
    ("training.lr=inf", "training.lr is inf, but must be finite"),
    ("training.weight_decay=nan", "training.weight_decay is nan, but must be finite"),
    ("training=group_dro training.step_size=nan", "training.step_size is nan, but must be finite"),
    ("method=fmd method.delta=nan", "method.delta is nan, but must be finite"),
    ("method=fmd method.damping=[inf]", r"method.damping is \[inf\], but must be finite"),
    ("method=leace method.refit_l2=inf", "method.refit_l2 is inf, but must be finite"),
    ("method=leace method.refit_head=true method.refit_l2=nan", "method.refit_l2 is nan, but must be finite"),
    ("--scrubbing training.lr=nan", "training.lr is nan, but must be finite"),
    ("--scrubbing method=leace method.rtol=nan", "method.rtol is nan, but must be finite"),
    ("dataset=features path=x.npz dataset.ratios=[nan,.1,.1,.2]", r"dataset.ratios is \[nan, .*\], but must be finite"),
]
OUT_OF_RANGE = [
    ("--scrubbing model.heads=0", "model.heads is 0, but must be an integer >= 1"),
    ("--scrubbing model.hidden_size=0", "model.hidden_size is 0, but must be an integer >= 1"),
    ("--scrubbing model.intermediate_size=-5", "model.intermediate_size is -5, but must be an integer >= 1"),
    ("--scrubbing model.layers=0", "model.layers is 0, but must be an integer >= 1"),
    ("--scrubbing model.vocab_size=10000000000", r"model.vocab_size is \d+, but must be an integer >= 258 and <= 1"),
    ("dataset=celeba dataset.resolution=100000", "dataset.resolution is 100000, but must be an integer >= 1 and <= 1"),
    ("model.hidden=[100000000]", r"model.hidden is \[100000000\], but must be a list of integers >= 1 and <= 65536"),
    ("model=convnet model.channels=[1000000]", r"model.channels is \[1000000\], but must be a list of integers >= 1"),
    ("evaluation.bootstrap=1000000000", r"evaluation.bootstrap is 1000000000, but must be an integer >= 0 and <= 1"),
    ("training.epochs=-1", "training.epochs is -1, but must be an integer >= 0"),
    ("training.batch_size=true", "training.batch_size is True, but must be an integer"),
]


def refused(command: str, tmp_path: Path, message: str) -> None:
    overrides = command.split()
    name = "scrubbing" if "--scrubbing" in overrides else "config"
    root = CONF / "scrubbing" if name == "scrubbing" else CONF
    places = [f"results_dir={tmp_path / 'results'}", f"cache_dir={tmp_path / 'cache'}", "logger=none"]
    with initialize_config_dir(str(root), version_base="1.3"):
        cfg = compose(name, overrides=[*places, *(text for text in overrides if text != "--scrubbing")])
    with pytest.raises(ValueError, match=f"^{message}"):
        entry.build(cfg)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("command", "message"), NOT_FINITE)
def test_numbers_that_are_not_finite(command: str, message: str, tmp_path: Path) -> None:
    """Covers faults B2: they hid the real error, after the work."""
    refused(command, tmp_path, message)


@pytest.mark.parametrize(("command", "message"), OUT_OF_RANGE)
def test_numbers_out_of_range(command: str, message: str, tmp_path: Path) -> None:
    """Covers faults C3: a division by zero, the allocator's words, a command without end."""
    refused(command, tmp_path, message)
