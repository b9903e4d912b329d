"""The environment that `fedlas serve` hands to the processes that it starts."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from service.processes import standalone, supervision
from service.registry.settings import ServiceSettings

KEY = "a-key-of-the-tests-0123456789abc"


@pytest.mark.parametrize("wall", ["preferred", "off"])
def test_only_what_checks_keys_is_given_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wall: str) -> None:
    """Control, or the API without a wall; neither a worker nor the broker, which gets no password either."""
    monkeypatch.setenv("FEDLAS_API_KEYS", KEY)
    monkeypatch.setenv("FEDLAS_API_KEY", KEY)  # a client's, in the shell of whoever starts the service
    monkeypatch.setenv("FEDLAS_DATABASE_URL", "postgresql+psycopg://me:password@host/fedlas")
    settings = ServiceSettings(data_dir=tmp_path, wall=wall)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        children = standalone._children(settings, tmp_path, listener, stack)
        holding = {
            word: {child.name for child in children if word in "\n".join(child.environment.values())}
            for word in (KEY, "password")
        }
    checking = {"preferred": "control", "off": "api"}[wall]
    assert holding[KEY] == {checking}
    assert holding["password"] == {checking, "worker", "worker-light"}


def test_every_process_is_told_how_many_answer_predictions(tmp_path: Path) -> None:
    """One listening socket behind a wall, and as many processes as were asked for."""
    settings = ServiceSettings(data_dir=tmp_path, api_processes=2, wall="preferred")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        children = standalone._children(settings, tmp_path, listener, stack)
        told = {child.name: child.environment.get("FEDLAS_API_PROCESSES") for child in children}
    assert {"control", "serving-1", "serving-2", "acceptor"} <= told.keys()
    assert told["control"] == "2"


def test_a_port_that_is_taken_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts a second service reads which address is taken, and by what another is chosen."""
    monkeypatch.setattr(supervision, "_PORT_TIMEOUT_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            supervision.bound(ServiceSettings(port=port))
    assert ended.value.code == (
        f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another by --port or FEDLAS_PORT"
    )
