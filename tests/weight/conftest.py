"""Limits of every test of weight: memory of its own, so that a test that fails takes no machine with it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers.api import Api, open_api

#: Memory that a test, and each process that it starts, may take beyond what this process has already.
_MAX_BYTES = 4 * 1024**3


@pytest.fixture(scope="module", autouse=True)
def limited_memory() -> Iterator[None]:
    """The soft limit of private memory is lowered for the module and what it starts, and raised again afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status")
    taken = 0
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        taken = int(lines["VmData"].split()[0]) * 1024
    limit = taken + _MAX_BYTES
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One for all tests of a module."""
    with ExitStack() as stack:
        yield open_api(tmp_path_factory.mktemp("api") / "data", stack)
