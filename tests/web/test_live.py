"""A job as it happens, in front of many eyes."""

from __future__ import annotations

import os
import signal

import pytest
from playwright.sync_api import Page, expect

from tests.helpers.browser import GOOD_SHIFT, good_to_look_at, layout_shift
from tests.helpers.service import Service
from tests.helpers.uploads import Uploads
from tests.web.conftest import KEYS, Windows

pytestmark = pytest.mark.slow

#: Browsers allow six connections to a host.
TABS = 8
#: So long that it runs until it is cancelled.
LONG = {"hyperparameters": {"epochs": 400}, "budget": {"minutes": 10, "candidates": 4}}


def test_eight_tabs_see_a_worker_die_and_the_job_go_on_until_it_is_cancelled(
    windows: Windows, service: Service, uploads: Uploads
) -> None:
    """All tabs move, what else is asked is answered, and a colleague sees the same; one of them ends the job."""
    model = service.upload("models", uploads["digits.onnx"], name="digits")
    dataset = service.upload("datasets", uploads["digits.npz"], name="digits")
    path = f"/jobs/{service.order(model, dataset, **LONG)['id']}"
    window, colleague = windows(reduced_motion="reduce"), windows(key=KEYS[1])
    colleague.context.add_init_script("delete window.SharedWorker")  # as on phones: the tab has a stream of its own
    tabs = [window.page, *(window.tab() for _ in range(TABS - 1)), colleague.page]
    for tab in tabs:
        tab.goto(path)
    assert colleague.page.evaluate("typeof SharedWorker") == "undefined"
    for tab in tabs:
        happened(tab, "Train: candidates are trained")
        expect(tab.get_by_role("row", name="fold")).not_to_have_count(0)
    assert tabs[0].evaluate("fetch('/session/v1/jobs').then(answer => answer.status)") == 200
    good_to_look_at(tabs[0])
    os.kill(service.pid("worker"), signal.SIGKILL)
    for tab in tabs:
        happened(tab, "lost")
    tabs[1].reload()
    happened(tabs[1], "lost")
    for tab in tabs:
        expect(tab.get_by_text("This is attempt 2")).to_be_visible()
    cancelling = tabs[2]
    cancelling.get_by_text("Cancel …").focus()
    cancelling.keyboard.press("Enter")
    cancelling.keyboard.press("Tab")
    expect(cancelling.get_by_role("button", name="Cancel the job")).to_be_focused()
    cancelling.keyboard.press("Enter")
    for tab in tabs:
        expect(tab.get_by_text("Cancelled: nothing was published")).to_be_visible()
    assert [shift for tab in tabs[3:] if (shift := layout_shift(tab))[0] > GOOD_SHIFT] == []


def happened(tab: Page, words: str) -> None:
    """The list of what has happened has a line with these words, which stays there."""
    expect(tab.get_by_role("region", name="What has happened").get_by_text(words).first).to_be_visible()
