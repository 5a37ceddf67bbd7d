"""The page in a browser."""

from pathlib import Path
from typing import Any

import pytest

from efface.report.__main__ import main

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_page_is_read_sorted_and_traced_without_a_network(
    results: Path, tmp_path: Path, browser: Any, width: int
) -> None:
    assert main([str(results), "--out", str(tmp_path)]) == 0
    page = browser.new_page(viewport={"width": width, "height": 844})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_load_state("load")

    widths = page.eval_on_selector_all("img", "all => all.map(one => one.complete ? one.naturalWidth : 0)")
    assert len(widths) == 3
    assert min(widths) > 100
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # only tables scroll sideways

    def column(at: int) -> list[str]:
        return list(
            page.eval_on_selector_all("#table tbody tr", f"rows => rows.map(row => row.cells[{at}].textContent.trim())")
        )

    head = page.locator("#table thead tr:last-child th")
    titles = head.all_text_contents()
    at = titles.index("unbiased acc. ↑")
    head.nth(at).locator("button").click()
    assert head.nth(at).get_attribute("aria-sort") == "ascending"
    rising = [float(text.split()[0]) for text in column(at) if text]
    assert rising == sorted(rising)
    assert len(rising) == 3
    head.nth(at).locator("button").press("Enter")
    falling = [float(text.split()[0]) for text in column(at) if text]
    assert falling == rising[::-1]
    head.nth(0).locator("button").click()
    assert column(0) == sorted(column(0))

    number = page.locator("#table .number").first
    number.click()
    origin = page.locator("#origin")
    assert origin.is_visible()
    runs = origin.locator("pre").text_content()
    assert runs == number.get_attribute("data-runs")
    for line in runs.splitlines():
        assert (results / line.split()[-1] / "record.json").is_file()
    page.keyboard.press("Escape")
    assert not origin.is_visible()
    number.press("Enter")
    assert origin.is_visible()

    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    page.close()
