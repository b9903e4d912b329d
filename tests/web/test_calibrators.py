"""Scores in a browser: a file is chosen, a threshold is dragged, a file is taken."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.helpers.browser import good_to_look_at

pytestmark = pytest.mark.slow


def test_from_scores_to_a_threshold(page: Page, tmp_path: Path) -> None:
    """The promise stands first; the slider moves words and line by keyboard, and says that they are no promise."""
    (tmp_path / "judge.csv").write_text(
        "score,label\n" + "".join(f"{i},{int(i > 90 or i % 3 < 1)}\n" for i in range(300))
    )
    page.goto("/calibrators/new")
    page.get_by_label("Scores and labels").set_input_files(tmp_path / "judge.csv")
    good_to_look_at(page)
    page.get_by_role("button", name="Find the threshold").click()
    expect(page.locator(".verdict")).to_contain_text("Of such rows at most 5 % are wrong")
    good_to_look_at(page)
    said = page.locator("#threshold-said")
    expect(said).to_contain_text("This is the threshold that is promised.")
    page.get_by_label("Accept from this score up").press("Home")
    expect(said).to_contain_text("At 0 or above, 100.0 % of the rows are accepted: 300 of 300, of which 60 were wrong.")
    expect(page.locator("[data-dragged]")).to_have_attribute("transform", "translate(64)")
    with page.expect_download() as download:
        page.get_by_role("link", name="Calibrator (ONNX)").click()
    assert download.value.path().stat().st_size > 0
