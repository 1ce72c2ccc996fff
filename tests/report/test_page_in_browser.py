import io
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from synthetic_report import report_data

from picpoint.report.page import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def chromium():
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine: install one of " + ", ".join(BROWSERS))
    return found


def take_picture(chromium, page, tmp_path, *options):
    """Load a page; give its picture and what the browser's console said."""
    target = tmp_path / "page.png"
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--v=0",
            "--hide-scrollbars",
            "--window-size=1200,1600",
            f"--screenshot={target}",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return np.asarray(Image.open(io.BytesIO(target.read_bytes())).convert("RGB")), console


def test_the_page_draws_in_a_browser_without_a_complaint(chromium, tmp_path):
    evil = "<script>console.error('ran')</script>"
    data = report_data(class_names=(evil, "chair", "table"))
    write_report(replace(data, title=evil), tmp_path / "report.html")
    light, console = take_picture(chromium, tmp_path / "report.html", tmp_path)
    assert console == []
    assert light.mean() > 200
    assert light.std() > 10
    dark, console = take_picture(
        chromium, tmp_path / "report.html", tmp_path, "--blink-settings=preferredColorScheme=0"
    )
    assert console == []
    assert dark[:, :20].mean() < 60


def test_the_console_check_sees_a_complaint(chromium, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<script>console.error('ran')</script>")
    _, console = take_picture(chromium, page, tmp_path)
    assert len(console) == 1
