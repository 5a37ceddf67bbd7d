"""The commands of docs/embeddings.md run, and print what the page shows."""

import glob
import re
import shlex
from pathlib import Path

import pytest
from benchmarks import pages
from tests.conftest import CONF
from tests.embeddings.digits import X, Y, run, save_npy

from efface.embeddings import __main__ as commands

PAGE = (CONF.parent / "docs" / "embeddings.md").read_text()


def test_first_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_npy(Path("x0.npy"), X, Y)[1].rename("z0.npy")
    example = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[0]
    for line in example.splitlines():
        words = [match for word in shlex.split(line)[3:] for match in (sorted(glob.glob(word)) or [word])]
        run(*words)
    printed = capsys.readouterr().out.splitlines()[-4:]
    shown = re.findall(r"```\n(1,797.*?)```", PAGE, re.DOTALL)[0].splitlines()
    assert [printed[0], printed[3]] == [shown[0], shown[3]]
    assert [line.split()[-1] for line in printed] == [line.split()[-1] for line in shown]


def test_every_option_is_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("fit", "apply", "certify"):
        with pytest.raises(SystemExit):
            commands.main([command, "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert [option for option in sorted(options) if option not in PAGE] == []


def test_recorded_fit_takes_little_longer_than_one_product() -> None:
    rows = pages.load()["embeddings"].rows
    assert rows[0].ratio is not None
    assert rows[0].ratio >= 0.8
    assert all(row.peak_bytes is not None and row.peak_bytes < 1.5e9 for row in rows)
