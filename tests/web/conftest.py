"""One browser and one service for all tests of pages, and a window for each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.helpers.browser import Window, headless
from tests.helpers.command_line import scaled_model
from tests.helpers.programs import CHROMIUM, chromium
from tests.helpers.service import Service, serving
from tests.helpers.uploads import Uploads
from tests.web.files import drawn_csv, picture_of, pictures_zip

#: Keys of two people.
KEYS = ("a-key-of-the-tests-0123456789abc", "another-key-of-the-tests-0123456")

#: Opens a window, with a session of this `key` unless that is None, and `at` another service than that of these tests;
#: other arguments are options of Playwright's contexts.
Windows = Callable[..., Window]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium, started once; its event loop ends with these tests, so that others have theirs."""
    executable = chromium()
    if executable is None:
        sentence = f"{CHROMIUM.missing}; another browser can be named in FEDLAS_CHROMIUM"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(sentence)
    with headless(executable) as running:
        yield running


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that answers two keys; its client has the first."""
    with serving(tmp_path_factory.mktemp("service") / "data", FEDLAS_API_KEYS=",".join(KEYS)) as running:
        running.client.headers["Authorization"] = f"Bearer {KEYS[0]}"
        yield running


@pytest.fixture(scope="package")
def files(tmp_path_factory: pytest.TempPathFactory, uploads: Uploads) -> Path:
    """Files to upload: a network that is too sure with a table, and one for small pictures with a zip of them."""
    folder = tmp_path_factory.mktemp("files")
    for name, content in (
        ("sharp.onnx", scaled_model(3.0)),
        ("rows.csv", drawn_csv(test=600)),
        ("pictures.onnx", uploads["images.onnx"]),
        ("pictures.zip", pictures_zip()),
        ("seven.png", picture_of(7)),
    ):
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def windows(browser: Browser, service: Service) -> Iterator[Windows]:
    """Windows on the service; a window in which something went wrong fails the test."""
    opened: list[Window] = []

    def open_window(*, key: str | None = KEYS[0], at: str | None = None, **options: Any) -> Window:
        window = Window(browser, at or origin(service), **options)
        opened.append(window)
        if key is not None:
            window.page.goto("/sign-in")
            sign_in(window.page, key)
            window.page.wait_for_url("/")
        return window

    yield open_window
    for window in opened:
        window.close()


def sign_in(page: Page, key: str) -> None:
    """Enter a key on the page that asks for one."""
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def origin(service: Service) -> str:
    """Where the service is."""
    return str(service.client.base_url).rstrip("/")


@pytest.fixture
def page(windows: Windows) -> Page:
    """A tab of a window of its own."""
    return windows().page
