"""The road without JavaScript: pages are read, forms are sent, and what changes is seen by loading again."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.helpers.processes import until
from tests.web.conftest import Windows

pytestmark = pytest.mark.slow


def send(button: Locator) -> None:
    """Send a form, and be on the page that answers it."""
    with button.page.expect_navigation():
        button.click()


def loaded_until(page: Page, what: Locator) -> None:
    """Load the page again until it has this."""

    def is_there() -> bool:
        page.reload()
        return what.is_visible() and what.is_enabled()

    until(is_there, seconds=240, what=f"{page.url} has {what}")


def test_every_form_works_without_a_script(windows: Windows, files: Path) -> None:
    """Two files are sent, checked and calibrated; one job is cancelled, another read to its report; then one leaves."""
    page = windows(java_script_enabled=False).page
    page.get_by_label("A classifier").set_input_files(files / "sharp.onnx")
    page.get_by_label("A dataset").set_input_files(files / "rows.csv")
    send(page.get_by_role("button", name="Upload and look inside"))
    calibrate = page.get_by_role("button", name="Calibrate", exact=True)
    loaded_until(page, calibrate)
    new = page.url
    send(page.get_by_role("button", name="Check first"))
    loaded_until(page, page.get_by_text("Check finished"))
    page.goto(new)
    send(calibrate)
    page.get_by_text("Cancel …").click()
    send(page.get_by_role("button", name="Cancel the job"))
    loaded_until(page, page.get_by_text("Cancelled: nothing was published"))
    page.goto(new)
    page.get_by_text("Advanced settings").click()
    page.get_by_label("Method").select_option("temperature")
    send(calibrate)
    loaded_until(page, page.get_by_role("link", name="Report"))
    page.get_by_role("link", name="Report").click()
    expect(page.get_by_role("heading", name="Confidences")).to_be_visible()
    send(page.get_by_role("button", name="Sign out"))
    expect(page.get_by_label("Key")).to_be_visible()
