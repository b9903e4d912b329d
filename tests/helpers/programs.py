"""Programs that tests need and pip does not install, in one table: where each is, and which tests it is for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.servers import find_program

#: Where the Compose plugin is installed when Docker itself is not.
_PLUGIN = Path("/usr/libexec/docker/cli-plugins/docker-compose")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Program:
    """One of them: what is skipped without it, its Debian package, and where it is (None where not installed)."""

    name: str
    tests: str
    package: str
    find: Callable[[], Path | str | None]

    def needed(self) -> str:
        """Where it is; skips the test that asks where it is not installed."""
        if (found := self.find()) is None:
            pytest.skip(self.missing)
        return str(found)

    @property
    def missing(self) -> str:
        """The reason that a test is skipped."""
        return f"{self.name} is not installed (Debian: apt-get install {self.package})"


def chromium() -> Path | None:
    """The browser of this machine: the one that `FEDLAS_CHROMIUM` names, else the one on the path."""
    named = os.environ.get("FEDLAS_CHROMIUM")
    found = [named] if named else [path for name in _BROWSERS if (path := shutil.which(name))]
    return Path(found[0]) if found else None


def libfaketime() -> Path | None:
    """The library for programs with threads."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


def _compose() -> str | None:
    return shutil.which("docker-compose") or (str(_PLUGIN) if _PLUGIN.is_file() else None)


CHROMIUM = Program("Chromium", "pages in a browser", "chromium", chromium)
PROMTOOL = Program("promtool", "alert rules", "prometheus", lambda: shutil.which("promtool"))
PROMETHEUS = Program("Prometheus", "the Compose files' processes", "prometheus", lambda: shutil.which("prometheus"))
FAKETIME = Program("libfaketime", "a clock put wrong", "faketime", libfaketime)
POSTGRESQL = Program("PostgreSQL", "the registry on PostgreSQL", "postgresql", lambda: find_program("initdb"))
COMPOSE = Program("Docker Compose", "the Compose files as it reads them", "docker-compose", _compose)
PROGRAMS = (CHROMIUM, PROMTOOL, PROMETHEUS, FAKETIME, POSTGRESQL, COMPOSE)


def first_line(programs: Sequence[Program] = PROGRAMS) -> str:
    """The tests that this machine has no program for, and how it gets one."""
    missing = [f"{one.tests} ({one.name}: apt-get install {one.package})" for one in programs if one.find() is None]
    return f"will skip: {', '.join(missing)}" if missing else "nothing will be skipped for want of a program"
