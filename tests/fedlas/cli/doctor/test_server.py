"""The check of the server, against real API processes and what may stand in their place."""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from fedlas import __version__
from fedlas.cli.doctor import server
from fedlas.client import configuration


def _checked(monkeypatch: pytest.MonkeyPatch, url: str | None, key: str | None = None) -> dict[str, dict[str, str]]:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nowhere")
    for name, value in (("FEDLAS_URL", url), ("FEDLAS_API_KEY", key)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    return {line["name"]: line for line in server.check()}


def test_a_living_server_is_examined(idle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address, what it lacks itself, its workers, the key and its version are told apart."""
    found = _checked(monkeypatch, idle, "the-right-key-of-all")
    assert {name: line["status"] for name, line in found.items()} == {
        "address": "ok", "broker": "fail", "workers": "warn", "key": "ok", "version": "ok",
    }  # fmt: skip
    assert found["workers"]["remedy"] == "start one beside the server: python -m worker"
    assert found["version"]["found"] == f"the server is {__version__}, this is {__version__}"


@pytest.mark.parametrize(
    ("key", "found"),
    [("wrong", "the server does not know this key"), (None, "the server wants a key, and none is set")],
)
def test_a_wrong_key_and_no_key_are_told_apart(
    idle: str, monkeypatch: pytest.MonkeyPatch, key: str | None, found: str
) -> None:
    """Both fail, with the variable that mends it."""
    line = _checked(monkeypatch, idle, key)["key"]
    assert (line["status"], line["found"]) == ("fail", found)
    assert "FEDLAS_API_KEY" in line["remedy"]


def test_a_dead_port_fails_only_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address of the user's own must answer; the default one need not."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
    line = _checked(monkeypatch, dead)["address"]
    assert line["status"] == "fail"
    assert line["found"].startswith(f"{dead} does not answer (")
    monkeypatch.setattr(configuration, "DEFAULT_URL", dead)
    line = _checked(monkeypatch, None)["address"]
    assert line["status"] == "skip"
    assert line["remedy"].startswith("fedlas serve")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h", "http://", "http://[", "nonsense"])
def test_what_is_no_url_fails_in_a_sentence(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """The remedy shows what one looks like."""
    line = _checked(monkeypatch, url)["address"]
    assert line["status"] == "fail"
    assert "FEDLAS_URL" in line["remedy"]


def test_another_web_server_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that answers 200 everywhere is no FedLAS service."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html></html>")

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Page) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        line = _checked(monkeypatch, f"http://127.0.0.1:{other.server_port}/v1")["address"]
        other.shutdown()
    assert line["status"] == "fail"
    assert line["found"].endswith("answers, but is no FedLAS service")


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An open port without an answer is a failure after the time limit."""
    monkeypatch.setattr(server, "_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        line = _checked(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")["address"]
    assert (line["status"], "timed out" in line["found"]) == ("fail", True)
