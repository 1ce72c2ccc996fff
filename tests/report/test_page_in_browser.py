"""The page in headless Chromium: it draws, sorts by mouse and keyboard, and says nothing wrong."""

import io
from dataclasses import replace

import numpy as np
import pytest
from chromium_page import BROWSERS, ChromiumPage, chromium_page, find_chromium
from PIL import Image
from synthetic_results import finetuning, full_report, record, study

from picpoint.report.page import write_report
from picpoint.report.tables import NOTHING

DASH = NOTHING.text
EVIL = "<script>console.error('ran')</script>"
QUOTED = '"><img src=x onerror="console.error(1)">'


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium on this machine: install one of " + ", ".join(BROWSERS))
    with chromium_page(found, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """All kinds of sections, with names that would be code, were they not escaped."""
    data = full_report()
    evil = [
        finetuning(EVIL, class_names=(EVIL, QUOTED, "chair"), dataset=EVIL, encoder=QUOTED),
        *data.finetunings,
    ]
    return write_report(
        replace(
            data,
            title=EVIL,
            finetunings=tuple(evil),
            studies=(*data.studies, study(name=EVIL, folder=QUOTED, reason=EVIL)),
            records=(*data.records, record(EVIL, {EVIL: QUOTED})),
        ),
        tmp_path_factory.mktemp("report"),
    )


@pytest.fixture
def page(browser, report) -> ChromiumPage:
    browser.console.clear()
    browser.requests.clear()
    browser.open(report)
    return browser


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def table_script(title):
    return f"document.querySelector('table[aria-label=\"{title}\"]')"


def column(page, title, place):
    script = f"[...{table_script(title)}.tBodies[0].rows].map(r => r.cells[{place}].innerText)"
    return page.value(script)


def head(title, place):
    return f"{table_script(title)}.tHead.rows[0].cells[{place}]"


def test_the_page_draws_in_light_and_dark_without_a_complaint(page, report):
    light = pixels(page.picture())
    assert light.mean() > 200
    assert light.std() > 10
    page.open(report, dark=True)
    assert pixels(page.picture())[:, :20].mean() < 60
    page.value("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.console == []
    assert all(url.startswith(("file:", "data:")) for url in page.requests)
    assert sum(url.startswith("file:") for url in page.requests) == 2


def test_a_click_on_a_head_sorts_and_another_turns_it_round(page):
    title = "ModelNet40, fine-tuned"
    before = column(page, title, 1)
    page.click(f"{head(title, 1)}.querySelector('button')")
    falling = column(page, title, 1)
    assert falling != before
    assert sorted(falling) == sorted(before)
    numbers = [float(text.split()[0]) for text in falling if text != DASH]
    assert numbers == sorted(numbers, reverse=True)
    assert falling[-1] == DASH
    assert page.value(f"{head(title, 1)}.ariaSort") == "descending"
    page.click(f"{head(title, 1)}.querySelector('button')")
    rising = column(page, title, 1)
    assert [float(text.split()[0]) for text in rising if text != DASH] == sorted(numbers)
    assert rising[-1] == DASH  # what is missing comes last in either order
    # Another column takes over, and only one is said to be sorted.
    page.click(f"{head(title, 0)}.querySelector('button')")
    names = column(page, title, 0)
    assert names[0].startswith("ACT")
    assert page.value(f"{table_script(title)}.querySelectorAll('[aria-sort]').length") == 1
    assert page.value(f"{head(title, 0)}.ariaSort") == "ascending"
    assert page.console == []


def test_the_keyboard_sorts_too(page):
    title = "views: linear probe, validation fold"
    page.value(f"{head(title, 0)}.querySelector('button').focus()")
    page.press("Tab")
    focused = f"document.activeElement === {head(title, 1)}.querySelector('button')"
    assert page.value(focused)
    page.press("Enter")
    assert page.value(f"{head(title, 1)}.ariaSort") == "descending"
    page.press("Enter")
    assert column(page, title, 1) == ["0.7100", "0.7600", "0.7900", DASH]
    assert page.console == []


def test_a_phone_shows_all_of_it_without_scrolling_sideways(page, report):
    page.open(report, width=390, height=844)
    page.value("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.value("document.documentElement.scrollWidth") == 390
    # What is wider than the phone scrolls by itself, and the keyboard reaches it.
    page.value("dispatchEvent(new Event('resize'))")
    wide = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth)"
    assert page.value(f"{wide}.length") > 0
    assert page.value(f"{wide}.every(each => each.tabIndex === 0)")
    assert page.console == []


def test_the_policy_stops_scripts_that_are_not_the_page_s_own(page, report, tmp_path):
    """The console sees it: so it would have seen a complaint in the other tests."""
    broken = tmp_path / "bad.html"
    html = report.read_text()
    broken.write_text(html.replace("</main>", "<script>console.error('ran')</script></main>"))
    page.open(broken)
    assert len(page.console) == 1
    assert "Content Security Policy" in page.console[0]
    free = tmp_path / "free.html"
    free.write_text("<script>console.error('ran')</script>")
    page.open(free)
    assert page.console[1:] == ["ran"]
