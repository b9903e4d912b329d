"""The browser of these tests finds what it is there to find."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.helpers.browser import Window, accessible, at_width
from tests.web.conftest import Windows

GOOD = "<!doctype html><html lang=en><title>Good</title><meta name=viewport content='width=device-width'><main><h1>Good"


def test_what_goes_wrong_in_a_window_is_found(browser: Browser) -> None:
    """A message, an exception, a broken policy, another host and an answer that was not expected, each by its name."""
    window = Window(browser, "http://good.invalid")
    policy = "script-src 'unsafe-inline'; style-src 'none'"
    scripts = "console.error('said'); fetch('/missing'); fetch('http://bad.invalid/'); undefined.thrown"
    body = f"<!doctype html><p style='color:red'>Hello<script>{scripts}</script>"
    window.context.route(
        "**",
        lambda route: route.fulfill(
            status=404 if route.request.url.endswith("/missing") else 200,
            headers={
                "Content-Type": "text/html",
                "Content-Security-Policy": policy,
                "Access-Control-Allow-Origin": "*",
            },
            body=body,
        ),
    )
    with window.page.expect_response("**/missing"), window.page.expect_response("http://bad.invalid/"):
        window.page.goto("/")
    with pytest.raises(AssertionError):
        window.close()
    told = "\n".join(window.faults)
    for fault in ("said", "thrown", "Content Security Policy", "another host: http://bad.invalid/", "404 for GET"):
        assert fault in told


def test_what_is_badly_made_is_found(windows: Windows) -> None:
    """An image without words, and a page that is wider than a phone."""
    page = windows(key=None).page
    page.set_content(f"{GOOD}</h1><img src='data:,'><pre>{'wide ' * 200}")
    with pytest.raises(AssertionError, match="image-alt"):
        accessible(page)
    with pytest.raises(AssertionError, match=r"at 360 px.*<pre>"):
        at_width(page, 360)
