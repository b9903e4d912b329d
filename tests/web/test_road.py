"""The road from upload to prediction, clicked: a table, and pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.helpers.browser import GOOD_SHIFT, good_to_look_at, layout_shift
from tests.helpers.service import Service
from tests.web.conftest import Windows

pytestmark = pytest.mark.slow


def choose(page: Page, model: Path, dataset: Path) -> None:
    """Give the first page two files."""
    page.goto("/")
    page.get_by_label("A classifier").set_input_files(model)
    page.get_by_label("A dataset").set_input_files(dataset)


def look_inside(page: Page) -> None:
    """Upload them, and wait until inspection is through with both."""
    page.get_by_role("button", name="Upload and look inside").click()
    page.wait_for_url("**/new?*")
    expect(page.get_by_role("button", name="Calibrate", exact=True)).to_be_enabled()


def order(page: Page, name: str) -> None:
    """Order the shortest calibration, to be published under a name, and wait for its end."""
    page.get_by_label("Publish as").fill(name)
    advanced = page.get_by_text("Advanced settings")
    if not page.get_by_label("Method").is_visible():
        advanced.click()
    page.get_by_label("Method").select_option("temperature")
    page.get_by_role("button", name="Calibrate", exact=True).click()
    page.wait_for_url("**/jobs/job_*")
    expect(page.get_by_role("link", name="Report")).to_be_visible()


def answer(page: Page, name: str) -> Locator:
    """The model's answer to one row."""
    return page.get_by_role("article", name=name).locator(".label")


def test_a_table_from_upload_to_prediction_and_a_roll_back(windows: Windows, service: Service, files: Path) -> None:
    """Two files are dropped, looked into and checked; the job's report is read, its model asked and rolled back."""
    page = windows().page
    choose(page, files / "sharp.onnx", files / "rows.csv")
    page.get_by_label("Was the model trained on these rows?").select_option("no")
    look_inside(page)
    good_to_look_at(page)
    page.get_by_role("button", name="Check first").click()
    expect(page.get_by_text("Check finished: this job would run")).to_be_visible()
    good_to_look_at(page)
    order(page, "sharp")
    good_to_look_at(page)
    job_id = page.url.rpartition("/")[2]
    assert layout_shift(page)[0] < GOOD_SHIFT, layout_shift(page)
    page.get_by_role("link", name="Report").click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    good_to_look_at(page)
    page.go_back()
    page.get_by_role("link", name="Try it").click()
    page.get_by_text("Or paste rows").click()
    page.get_by_label("Rows", exact=True).fill("1.5, -0.5, 0.25\n0, 0, 3")
    page.get_by_role("button", name="Predict").click()
    expect(answer(page, "Prediction of row 1")).to_contain_text("0")
    expect(answer(page, "Prediction of row 2")).to_contain_text("2")
    slider = page.get_by_label("Answer from this confidence up")
    slider.focus()
    slider.press("End")
    expect(page.get_by_text("Every row is answered")).to_be_hidden()
    good_to_look_at(page)
    job = service.job(job_id)
    again = service.calibrated(
        {"id": job["model_id"]},
        {"id": job["dataset_id"]},
        method="temperature",
        publish_as="sharp",
        publish_when="always",
    )
    page.goto("/names")
    page.get_by_role("rowheader", name="sharp").get_by_role("link").click()
    expect(page.get_by_text("Version 2 answers")).to_be_visible()
    good_to_look_at(page)
    page.get_by_role("link", name="Roll back to version 1").click()
    expect(page.get_by_text("Clients of sharp will get version 1")).to_be_visible()
    good_to_look_at(page)
    page.get_by_role("button", name="Let version 1 answer").click()
    expect(page.get_by_text("Version 1 answers")).to_be_visible()
    assert service.get("/v1/names/sharp")["default_version"] == 1
    assert again["calibrated_model_id"] != job["calibrated_model_id"]


def test_pictures_from_upload_to_prediction(windows: Windows, files: Path) -> None:
    """A zip of pictures with a model that says how they become its input; then one picture is dropped."""
    page = windows().page
    choose(page, files / "pictures.onnx", files / "pictures.zip")
    page.get_by_text("More about the model").click()
    page.get_by_label("Preprocessing").fill('{"channels": 1}')
    look_inside(page)
    order(page, "pictures")
    page.get_by_role("link", name="Try it").click()
    page.locator("input[type=file]").set_input_files(files / "seven.png")
    page.get_by_role("button", name="Predict").click()
    expect(answer(page, "Prediction")).to_contain_text("7")
    good_to_look_at(page)
