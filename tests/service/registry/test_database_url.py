"""The URL of a database: one that cannot be used ends a command in a line, and no password is in it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url

from service.cli import main
from service.registry import settings
from service.registry.settings import ServiceSettings
from worker.app import configuration

USED = [
    *("sqlite:////data/registry.sqlite", "sqlite:///registry.sqlite?timeout=5", "sqlite+pysqlite:///x"),
    *("postgresql://host/fedlas", "postgresql+psycopg://me:secret@host:5432/fedlas", "postgresql+psycopg:///fedlas"),
    *("postgresql+psycopg://me:sec/r%40et@[::1]:5432/fedlas?sslmode=require", "postgresql+psycopg://me@/x?host=/run"),
]
REFUSED = [
    *("nonsense", "postgresql", "sqlite://", "sqlite://registry.sqlite", "http://me:secret@host/fedlas"),
    *("mysql://me:secret@host/fedlas", "postgres://me:secret@host/fedlas", "postgresql+other://me:secret@host/fedlas"),
    *("postgresql+psycopg://me:secret@host:port/fedlas", "postgresql+psycopg://me:sec@ret@host:/x?password=secret"),
]


@pytest.mark.parametrize("url", USED)
def test_what_sqlalchemy_reads_is_used(url: str) -> None:
    """Files and servers, with keys, ports, sockets and options."""
    assert make_url(url).get_dialect().driver in ("pysqlite", "psycopg")
    assert ServiceSettings(database_url=url).resolved_database_url == url


@pytest.mark.parametrize("url", REFUSED)
def test_a_command_ends_with_what_was_found_and_what_is_needed(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """API and worker name the variable in one line, without the password; so they do where a driver is missing."""
    monkeypatch.setenv("FEDLAS_DATABASE_URL", url)
    assert main(["api"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fedlas: FEDLAS_DATABASE_URL: '{url.partition(':')[0]}")
    assert "expected postgresql+psycopg://" in line
    assert "sec" not in line
    with pytest.raises(SystemExit) as ended:
        configuration()
    assert ended.value.code == line


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the command that installs the driver."""
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    needed = r"needs psycopg, which is not installed: pip install 'fedlas-service\[postgresql\]' \(in a clone '\.\["
    with pytest.raises(ValidationError, match=needed):
        ServiceSettings(database_url="postgresql://host/fedlas")
