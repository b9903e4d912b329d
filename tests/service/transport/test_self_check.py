"""The self-check passes with the installed server, and names it where it behaves in another way."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.transport.protocol import Protocol
from service.transport.self_check import check_server


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
