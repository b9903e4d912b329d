"""HTTP/1.1 on one connection, from its beginning to its end: who may connect, and how long nobody reads."""

from __future__ import annotations

import asyncio
from typing import Any

from service.transport.head_protocol import SURPLUS_S, HeadProtocol
from service.transport.packet_gathering import GatheringTransport
from service.transport.request_head import too_many

#: How long a client may read nothing of what it was sent.
PATIENCE_S = 60.0
#: How long a new connection may say nothing: browsers open some ahead.
SILENCE_S = 30.0
#: A client that has ended its side may have gone: only writing tells (RFC 9110, 15.2: any number of 1xx may come).
_PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PROBE_AFTER_S, _PROBE_AGAIN_S = 0.05, 1.0


class Protocol(HeadProtocol):
    """One connection.

    - One too many is answered 503, as soon as its first head has come.
    - A client that has ended its side is answered; one that has gone altogether is noticed.
    - A client that reads nothing for a minute is let go, or answers would stay; uvicorn itself waits for ever.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._heard = False  # one too many that is read from all the same
        self._ended = False  # nothing will come
        self._idle_since = 0.0
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called when a client has connected."""
        super().connection_made(GatheringTransport(transport, self.loop, self._lingers))  # type: ignore[arg-type]
        self._excess = self._all.enter(self._address)
        if self._excess is None:
            self._timer = self.loop.call_later(SILENCE_S, self._on_time)
        elif self._all.hear():
            self._heard = True
            self._timer = self.loop.call_later(SURPLUS_S, self._on_time)
        else:
            self._ended = True
            self._refuse(too_many(self._excess))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when it has gone, and with it everybody who waits for an answer on it."""
        self._no_watch()
        self._no_timer()
        self._all.gathered_bytes -= self._pending
        if self._excess is None:
            self._all.leave(self._address)
        elif self._heard:
            self._all.unhear()
        for cycle in (self._running, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def eof_received(self) -> bool:  # type: ignore[override]
        """Called when the client has ended its side; returns whether it is still answered."""
        self._ended = True
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (self._in_body and not self._refused):
            self.transport.close()  # which sends what was written within this turn
            return False
        self._no_timer()
        cycle.keep_alive = False
        if cycle.scope["http_version"] == "1.1":
            self._timer = self.loop.call_later(_PROBE_AFTER_S, self._ask_whether_it_listens)
        return True

    def _ask_whether_it_listens(self) -> None:
        if self._running is not None and not self._running.response_started:
            self.transport.write(_PROBE)
        self._timer = self.loop.call_later(_PROBE_AGAIN_S, self._ask_whether_it_listens)

    def _lingers(self) -> bool:
        """Whether the client may still be sending what nobody will read."""
        if self._ended or not (self._refused or self._in_body):
            return False
        self._refused = True
        self.flow.resume_reading()
        return True

    def _on_time(self) -> None:
        if self._silent and self._excess is None:
            self.transport.close()
        else:
            super()._on_time()

    def on_response_complete(self) -> None:
        """Called when an answer has been written: the next one's turn, or nobody's.

        One timer a connection, which looks again and again: one a request, as uvicorn has, costs more than all checks.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_for_requests(self.timeout_keep_alive)

    def _look_for_requests(self, after: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(after, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Called when the connection may have been idle for long: the rest of an answered request is no use of it."""
        self.timeout_keep_alive_task = None
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if self.cycle.response_complete and not self._begun and not self.transport.is_closing():
            if left > 0:
                self._look_for_requests(left)
            else:
                self.transport.close()

    def pause_writing(self) -> None:
        """Called when more is written than the client reads."""
        super().pause_writing()
        self._look_again()

    def resume_writing(self) -> None:
        """Called when it has caught up."""
        self._no_watch()
        super().resume_writing()

    def _look_again(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._watch = self.loop.call_later(PATIENCE_S, self._look, unread)

    def _look(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() >= unread:
            self.transport.abort()
        else:
            self._look_again()

    def _no_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
