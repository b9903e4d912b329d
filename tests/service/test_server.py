"""The server of every process: what runs beside its requests."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from service.server import Server, configured
from service.settings import ServingSettings
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
