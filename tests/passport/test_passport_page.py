"""Passports where they are read: in a browser, from the report, and in Weights & Biases."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from tests.passport.conftest import record_of

from efface.passport import passport_of, write
from efface.passport.render import html, markdown
from efface.report.__main__ import main as report
from efface.runs import tracking


@pytest.fixture
def run_dir(results: Path) -> Path:
    directory = record_of(results, "leace").parent
    write(passport_of(directory), directory)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_page_is_read_without_a_network(run_dir: Path, browser: Any, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    events: list[str] = []
    page.on("console", lambda message: events.append(message.text))
    page.on("request", lambda request: events.append(request.url))
    page.goto((run_dir / "passport.html").as_uri())
    assert [event for event in events if not event.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    headings = page.locator("h2").all_text_contents()
    assert headings[:3] == ["What was done", "What is guaranteed", "What is not guaranteed"]
    rows = page.locator("#figures table").first.locator("tbody tr").all_text_contents()
    assert any(row.split()[:2] == ["unbiased", "accuracy"] for row in rows)
    page.close()


def test_words_of_a_record_are_no_html(run_dir: Path) -> None:
    passport = passport_of(run_dir).model_copy(update={"removed": "<script>alert(1)</script>"})
    assert "<script>" not in html(passport)


def test_both_pages_hold_every_sentence_and_digest(run_dir: Path) -> None:
    passport = passport_of(run_dir)
    for text in (html(passport).replace("&#39;", "'"), markdown(passport)):
        assert [sentence for sentence in passport.not_guaranteed if sentence not in text] == []
        assert [digest for digest in passport.files.values() if digest not in text] == []
        assert passport.guarantee.statement in text


def test_report_links_the_passports_that_are_there(results: Path, run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "report"
    assert report([str(results), "--out", str(out)]) == 0
    (address,) = re.findall(r'href="([^"]*passport\.html)"', (out / "index.html").read_text())
    assert (out / unquote(address)).resolve() == (run_dir / "passport.html").resolve()


@pytest.mark.slow
def test_passport_is_logged_beside_its_run(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # In a process of its own, at whose end the log is whole.
    command = [sys.executable, "-m", "efface.runs.tracking", str(run_dir)]
    subprocess.run(command, check=True, env={**os.environ, "WANDB_MODE": "offline"}, capture_output=True)
    (log,) = run_dir.parent.rglob("*.wandb")
    assert b"passport.json" in log.read_bytes()
    assert not (run_dir / "wandb").exists()
    (run_dir / "passport.md").unlink()
    assert tracking.main([str(run_dir)]) == 1
    assert "has no passport: write one with python -m efface.passport" in capsys.readouterr().err


@pytest.mark.slow
def test_exported_model_is_logged_without_rows_of_the_data(run_dir: Path) -> None:
    (run_dir / "model.onnx").write_bytes(b"graph")
    (run_dir / "inputs.safetensors").write_bytes(b"rows")
    command = [sys.executable, "-m", "efface.runs.tracking", str(run_dir)]
    subprocess.run(command, check=True, env={**os.environ, "WANDB_MODE": "offline"}, capture_output=True)
    (log,) = run_dir.parent.rglob("*.wandb")
    assert b"model.onnx" in log.read_bytes()
    assert b"inputs.safetensors" not in log.read_bytes()


def test_command_that_logs_an_export_is_said_where_the_run_is_logged(run_dir: Path, tmp_path: Path) -> None:
    assert tracking.how_to_log(run_dir, tmp_path) is None
    (run_dir / "wandb").mkdir()
    hint = tracking.how_to_log(run_dir, tmp_path / "my model")
    assert hint is not None
    assert hint.endswith(f"python -m efface.runs.tracking '{tmp_path}/my model'")
