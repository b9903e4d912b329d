"""The server of every process: what runs beside its requests, and the self-check of the installed uvicorn."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.registry.settings import ServingSettings
from service.server import Server, check_server, configured
from service.transport.protocol import Protocol


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers nothing."""


def test_a_server_ends_where_a_background_task_fails(caplog: pytest.LogCaptureFixture) -> None:
    """One background task may end; one that fails is logged with its traceback, and ends the server."""

    async def ends() -> None:
        """At once."""

    async def fails() -> None:
        await asyncio.sleep(0.05)
        raise RuntimeError("the sweep has failed")

    told: list[str] = []
    server = Server(
        configured(_app, ServingSettings(), lifespan="off", protocol=Protocol),
        background=[ends, fails],
        stopping=lambda: told.append("stopping"),
        closing=lambda: told.append("closing"),
    )
    with caplog.at_level("CRITICAL", logger="fedlas.api"):
        asyncio.run(asyncio.wait_for(server.serve([]), 60))
    assert server.started
    assert told == ["stopping", "closing"]
    (record,) = caplog.records
    assert record.getMessage() == "a background task has failed: this process ends"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "the sweep has failed"


def test_the_installed_server_passes() -> None:
    """The versions of the test environment are usable."""
    check_server()


def _no_tasks(self: Any, *args: Any) -> None:
    raise AttributeError("_start_asgi_task")


def _keeps_trailers(self: Any, name: bytes, value: bytes) -> None:
    self.headers.append((name.lower(), value))


@pytest.mark.parametrize(
    ("owner", "callback", "behaviour"),
    [(HttpToolsProtocol, "_start_asgi_task", _no_tasks), (Protocol, "on_header", _keeps_trailers)],
)
def test_another_behaviour_is_refused(
    owner: type, callback: str, behaviour: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callback that is gone, or that lets a trailer become a header, is an error with both versions."""
    monkeypatch.setattr(owner, callback, behaviour)
    with pytest.raises(RuntimeError, match=f"uvicorn {version('uvicorn')}, httptools {version('httptools')}"):
        check_server()
