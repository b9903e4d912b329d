"""A real browser as readers meet it: Chromium, what goes wrong in its windows, what axe and a ruler say of a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)

#: Nothing here is measured in time: whatever is waited for comes, on a busy machine late.
_PATIENCE_MS = 120_000
expect.set_options(timeout=_PATIENCE_MS)
#: A phone, a laptop and a wide screen.
WIDTHS = (360, 1200, 2560)
#: Words of the code that users do not know; a gate is a part of the loss, too.
_PRIVATE = re.compile(r"\b(?:raced?|races|veto(?:es|ed)?|walls?|contenders?|finalists?|the gate|shown to be)\b", re.I)
#: The most that a page may move by itself: Web Vitals calls a sum below this good.
GOOD_SHIFT = 0.1
_NO_CONVERSATIONS = ("--disable-background-networking", "--disable-component-update", "--disable-gpu")
#: Adds up what moves without having been touched, and what it was.
_SHIFTS = """
window.shifted = [];
new PerformanceObserver(list => {
  for (const entry of list.getEntries())
    if (!entry.hadRecentInput)
      window.shifted.push([entry.value, ...entry.sources.map(one => String(one.node?.outerHTML ?? '').slice(0, 200))]);
}).observe({type: 'layout-shift', buffered: true});
"""


@contextmanager
def headless(executable: Path) -> Iterator[Browser]:
    """One browser for the block, without a screen; its event loop runs in this thread: no `asyncio.run` meanwhile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_NO_CONVERSATIONS)
        yield browser
        browser.close()


class Window:
    """One person's window: cookies, tabs, and console messages, exceptions, foreign requests and answers >= 400."""

    def __init__(self, browser: Browser, origin: str, **options: Any) -> None:
        self.origin = origin
        self.context: BrowserContext = browser.new_context(base_url=origin, **{"locale": "en-GB", **options})
        self.context.set_default_timeout(_PATIENCE_MS)
        self.context.add_init_script(_SHIFTS)
        self.faults: list[str] = []
        self._expected: set[int] = set()
        self.context.on("console", self._on_console)
        self.context.on("weberror", lambda error: self.faults.append(f"exception: {error.error}"))
        self.context.on("request", self._on_request)
        self.context.on("response", self._on_response)
        self.page = self.context.new_page()

    def expect(self, *statuses: int) -> None:
        """Answers of these statuses are what the test is about."""
        self._expected.update(statuses)

    def tab(self) -> Page:
        """Another tab."""
        return self.context.new_page()

    def close(self) -> None:
        """Close all tabs; nothing may have gone wrong in them."""
        self.context.close()
        assert self.faults == [], self.faults

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.faults.append(f"{message.type} on {message.location['url']}: {message.text}")

    def _on_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme.startswith("http") and f"{parts.scheme}://{parts.netloc}" != self.origin:
            self.faults.append(f"another host: {request.url}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self._expected:
            self.faults.append(f"{response.status} for {response.request.method} {response.url}")


#: The elements furthest inside that stand out to the right where one cannot scroll to them.
_SPILLING = """[...document.querySelectorAll('body *')]
  .filter(one => !one.closest('.scroll *'))
  .filter(one => one.getBoundingClientRect().left + one.scrollWidth > document.documentElement.clientWidth)
  .slice(-3).map(one => one.outerHTML.slice(0, 200))"""


def accessible(page: Page, *, only: str | None = None) -> None:
    """Axe finds nothing of any impact, the state that the page is in being part of the message."""
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if only is not None:
        options["runOnly"] = [only]
    found = Axe().run(page, options=options)
    assert found.violations_count == 0, f"{page.url}\n{found.generate_report()}"


def at_width(page: Page, width: int) -> None:
    """Make the window this wide; nothing of the page may stand out of it to the right."""
    page.set_viewport_size({"width": width, "height": 800 if width > 360 else 640})
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width, f"{page.url} is {wide} px wide at {width} px: {page.evaluate(_SPILLING)}"


def good_to_look_at(page: Page) -> None:
    """The page fits at every width, is accessible in light and dark, has no private word; left 1,200 px wide."""
    page.emulate_media(color_scheme="dark")
    accessible(page, only="color-contrast")
    page.emulate_media(color_scheme="light")
    for width in WIDTHS:
        at_width(page, width)
    at_width(page, 1200)
    accessible(page)
    assert not (words := _PRIVATE.findall(page.locator("body").inner_text())), words


def layout_shift(page: Page) -> tuple[float, list[Any]]:
    """How much of the page has moved by itself since it was opened (Web Vitals' CLS, summed), and what moved."""
    shifts = page.evaluate("window.shifted")
    return sum(shift[0] for shift in shifts), shifts


def weighed(page: Page) -> dict[str, int]:
    """The bytes of each file that the page loads from now on, headers included; it fills while the page does."""
    found: dict[str, int] = {}
    asked: dict[str, str] = {}
    network = page.context.new_cdp_session(page)
    network.on("Network.requestWillBeSent", lambda event: asked.update({event["requestId"]: event["request"]["url"]}))
    network.on(
        "Network.loadingFinished",
        lambda event: found.update({asked[event["requestId"]]: int(event["encodedDataLength"])}),
    )
    network.send("Network.enable")
    return found
