"""Fixtures of all tests: a registry on disk, uploads made once, and processes that end with the tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from service.registry.registry import Registry
from service.registry.settings import ServiceSettings
from tests.helpers import backends, programs
from tests.helpers.scheduling import LongestFirst, rank_of
from tests.helpers.uploads import Uploads


def pytest_configure() -> None:
    """One thread per test process: two run beside each other, and rounding does not depend on the machine's cores."""
    torch.set_num_threads(1)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Print the line of tests to be skipped, since `-q` leaves `pytest_report_header` out; not in xdist's processes."""
    if reporter := session.config.pluginmanager.get_plugin("terminalreporter"):
        reporter.write_line(programs.first_line())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that take longest first."""
    items.sort(key=lambda item: rank_of(item.nodeid))


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: the collector need not look at a million objects again and again."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LongestFirst | None:
    """`--dist loadfile` keeps together what shares a service, too."""
    return LongestFirst(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_sessionfinish() -> None:
    """Servers that tests shared end with the tests."""
    backends.close()


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[ServiceSettings]:
    """Settings whose everything is the test's own, on the backends that are tested, whatever the environment says."""
    with backends.place(tmp_path / "data") as place:
        yield ServiceSettings(**place)


@pytest.fixture
def registry(settings: ServiceSettings) -> Iterator[Registry]:
    """A migrated registry on disk."""
    opened = Registry.open(settings)
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def uploads() -> Uploads:
    """Models and datasets by name, each made once."""
    return Uploads()
