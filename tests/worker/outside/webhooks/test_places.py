"""A receiver that answers a byte at a time keeps one place, and its own messages; other hosts hear meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest

from service.registry.registry import Registry
from service.registry.settings import ServiceSettings
from tests.helpers.answering import receiving
from tests.helpers.service import until
from tests.helpers.work import add_message, hurried, permits_for_all, permits_of
from worker.outside.kinds import delivery
from worker.outside.kinds.delivery import WebhookResponse, deliver
from worker.outside.supervisor import Supervisor

#: All of an attempt; a byte a tenth of a second would keep it going for 20 s.
TOTAL_S, PAUSE_S, DRIPS = 1.5, 0.1, 200


def trickle(sock: socket.socket) -> None:
    """Answer byte by byte."""
    sock.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(DRIPS):
        sock.sendall(b"x")
        time.sleep(PAUSE_S)


class Attempts:
    """Delivers as the worker does, under a shorter deadline, and counts what goes to whom at the same time."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.beside: Counter[str] = Counter()  # attempts that began while one to another receiver was running
        self._lock = threading.Lock()

    def __call__(self, url: str, *arguments: Any, **options: Any) -> WebhookResponse:
        with self._lock:
            self.beside[url] += self.running.total() > self.running[url]
            self.running[url] += 1
            self.most[url] = max(self.most[url], self.running[url])
        try:
            return deliver(url, *arguments, **options, seconds=TOTAL_S)
        finally:
            with self._lock:
                self.running[url] -= 1


def stored(registry: Registry, message: str) -> Any:
    """The message as it stands."""
    with registry.read() as unit:
        return unit.deliveries.get(message)


def test_a_trickling_receiver_has_one_place(
    registry: Registry, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow receiver of three messages has one of two places, cut off by its deadline; another host hears."""
    attempts = Attempts()
    monkeypatch.setattr(delivery, "deliver", attempts)
    supervisor = Supervisor(hurried(settings, webhook_allow_private=True), registry, name="w")
    permits = permits_of(supervisor, registry, queues=("deliver",), threads=2)
    with ExitStack() as stack:
        slow, quick = (
            f"http://{one.server_address[0]}:{one.port}/hook"
            for one in (stack.enter_context(receiving(trickle)), stack.enter_context(receiving(host="127.0.0.2")))
        )
        waiting = [add_message(registry, slow) for _ in range(3)]
        stack.enter_context(permits_for_all(permits, "deliver", threads=2))
        until(lambda: attempts.running[slow], what="a message trickles")
        others = [add_message(registry, quick) for _ in range(3)]
        everything = [*waiting, *others]
        until(lambda: all(stored(registry, one).attempts for one in everything), what="all had a turn")
    assert attempts.most[slow] == 1
    assert attempts.beside[quick] >= 1
    assert [stored(registry, one).status for one in others] == ["delivered"] * 3
    for message in waiting:
        row = stored(registry, message)
        (attempt,) = row.attempts[:1]
        assert (row.status, attempt["status_code"], attempt["error"]) == ("pending", None, "no answer in time")
        assert attempt["seconds"] < DRIPS * PAUSE_S / 2
