"""Fixtures of all tests: a registry on disk, uploads made once, and processes that end with the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from service.registry.unit_of_work import Registry
from service.settings import ServiceSettings
from tests.helpers.uploads import Uploads


def pytest_configure() -> None:
    """One thread per test process: two run beside each other, and rounding does not depend on the machine's cores."""
    torch.set_num_threads(1)


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    """Settings whose everything lies in a fresh folder, whatever the environment says."""
    return ServiceSettings(data_dir=tmp_path / "data", database_url=None, broker_url=None, artifacts=None)


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
