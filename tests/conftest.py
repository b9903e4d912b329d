"""Fixtures of all tests: a registry on disk, uploads made once, and processes that end with the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from service.registry.registry import Registry
from service.settings import ServiceSettings
from tests.helpers import backends
from tests.helpers.uploads import Uploads


def pytest_configure() -> None:
    """One thread per test process: two run beside each other, and rounding does not depend on the machine's cores."""
    torch.set_num_threads(1)


class _Scheduling(LoadFileScheduling):
    """The tests of pages share a browser and a service, so that one process runs them; all others go by file."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/web" if nodeid.startswith("tests/web/") else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """What `--dist loadfile` means here."""
    return _Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


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
