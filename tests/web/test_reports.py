"""Reports in a browser: what a worker has stored is drawn, can be looked at in every way, and taken away."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.helpers.browser import good_to_look_at, layout_shift
from tests.helpers.drawn_labels import drawn, normal
from tests.helpers.service import Service
from tests.helpers.uploads import npz

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def calibrator(service: Service) -> str:
    """A calibrator of scores that say too much, made by the service's worker."""
    logits = normal(1200, 3)
    split = np.where(np.arange(1200) % 2 == 0, "calibration", "test")
    content = npz(logits=3 * logits, labels=drawn(logits), split=split)
    answer = service.client.post("/v1/calibrators", content=content, params={"name": "scores"})
    assert answer.status_code in (201, 202), answer.text
    return str(service.final(f"/v1/calibrators/{answer.json()['id']}")["id"])


def test_a_report_is_looked_at_and_taken_away(page: Page, service: Service, calibrator: str, tmp_path: Path) -> None:
    """Nothing moves, axe and ruler find nothing, and a picture is an SVG that stands alone, or a large PNG."""
    page.goto(f"/calibrators/{calibrator}/report")
    page.get_by_role("button", name="Save reliability-without-bins as SVG").wait_for()
    assert layout_shift(page) == (0, [])
    good_to_look_at(page)
    for kind in ("SVG", "PNG"):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Save reliability-without-bins as {kind}").click()
        download.value.save_as(tmp_path / download.value.suggested_filename)
    drawn = ET.parse(tmp_path / "reliability-without-bins.svg").getroot()
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    png = (tmp_path / "reliability-without-bins.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == 3 * int(drawn.get("width", "0"))
    with page.expect_download() as download:
        page.get_by_role("link", name="Figures (JSON)").click()
    download.value.save_as(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == service.get(f"/v1/calibrators/{calibrator}/report")


def test_the_file_to_mail_is_styled_under_its_policy(page: Page, calibrator: str) -> None:
    """The stored page has its three models in their colours, and the browser refuses none of its styles."""
    page.goto(f"/session/v1/calibrators/{calibrator}/report.html")
    assert page.locator(".three tbody tr").count() == 3
    colour = page.locator(".three .uploaded th").evaluate("one => getComputedStyle(one).borderLeftColor")
    assert colour == "rgb(176, 39, 65)"


def test_a_report_is_short_and_paper_has_all_of_it(page: Page, calibrator: str) -> None:
    """A report opens at most 4,500 px high; an index leads to its parts, and what is closed is printed."""
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(f"/calibrators/{calibrator}/report")
    assert page.evaluate("document.documentElement.scrollHeight") <= 4500
    promise = page.get_by_text("a threshold needs guarantee rows").first
    expect(promise).to_be_in_viewport()
    page.get_by_role("navigation", name="Contents").get_by_role("link", name="How it was made").click()
    expect(page.get_by_role("heading", name="How it was made")).to_be_in_viewport()
    closed = page.locator("#glossary dl")
    assert not closed.is_visible()
    page.emulate_media(media="print")
    assert closed.is_visible()
