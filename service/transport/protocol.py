"""The HTTP/1.1 protocol of one connection: admission, timeouts of reading and writing, and its end."""

from __future__ import annotations

import asyncio
from typing import Any

from service.transport.hand_over import DepartingProtocol
from service.transport.head_protocol import SURPLUS_S
from service.transport.packet_gathering import GatheringTransport
from service.transport.request_head import too_many

#: How long a client may read nothing of what was sent.
WRITE_TIMEOUT_S = 60.0
#: How long a new connection may send nothing: browsers open some ahead.
SILENCE_S = 30.0
#: A client that has ended its side may be gone: only writing shows it (RFC 9110, 15.2: any number of 1xx may come).
_PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PROBE_AFTER_S, _PROBE_EVERY_S = 0.05, 1.0


class Protocol(DepartingProtocol):
    """One connection.

    - A surplus connection is answered 503 as soon as its first head is complete.
    - A client that has ended its side is answered; a closed connection is detected.
    - A connection whose client reads nothing for a minute is aborted; uvicorn itself waits without end.
    """

    def __init__(self, *args: Any, received: bytes = b"", **options: Any) -> None:
        super().__init__(*args, **options)
        self._received_before = received  # by the process that handed the connection over
        self._reads_surplus = False  # a surplus connection that is read from
        self._ended = False  # the client sends nothing more
        self._idle_since = 0.0
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop when a client has connected."""
        super().connection_made(GatheringTransport(transport, self.loop, self._lingers))  # type: ignore[arg-type]
        self._surplus = self._admission.admit(self._address)
        if self._surplus is None:
            self._timer = self.loop.call_later(SILENCE_S, self._on_time)
        elif self._admission.read_surplus():
            self._reads_surplus = True
            self._timer = self.loop.call_later(SURPLUS_S, self._on_time)
        else:
            self._ended = True
            self._refuse(too_many(self._surplus))
        if self._received_before:
            received, self._received_before = self._received_before, b""
            self.data_received(received)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection is closed; every request on it is marked as disconnected."""
        self._refused, self._rest = True, b""
        self._stop_write_timer()
        self._no_timer()
        self._admission.pending_head_bytes -= self._pending
        if self._surplus is None:
            self._admission.release(self._address)
        elif self._reads_surplus:
            self._admission.release_surplus()
        for cycle in (self._answering, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def eof_received(self) -> bool:  # type: ignore[override]
        """Called when the client has ended its side; returns whether the connection stays open for an answer."""
        self._ended = True
        if self._waits:  # what has arrived before the end is parsed first
            return True
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (self._in_body and not self._refused):
            self.transport.close()  # which sends what was written within this turn
            return False
        self._no_timer()
        cycle.keep_alive = False
        if cycle.scope["http_version"] == "1.1":
            self._timer = self.loop.call_later(_PROBE_AFTER_S, self._probe)
        return True

    def _go_on(self) -> None:
        super()._go_on()
        if self._ended and not (self._waits or self.transport.is_closing()):
            self.eof_received()

    def _probe(self) -> None:
        if self._answering is not None and not self._answering.response_started:
            self.transport.write(_PROBE)
        self._timer = self.loop.call_later(_PROBE_EVERY_S, self._probe)

    def _lingers(self) -> bool:
        """Whether the client may still be sending what is not read any more."""
        if self._ended or not (self._refused or self._in_body):
            return False
        self._refused, self._rest = True, b""
        self.transport.resume_reading()
        return True

    def _on_time(self) -> None:
        if self._silent and self._surplus is None:
            self.transport.close()
        else:
            super()._on_time()

    def on_response_complete(self) -> None:
        """Called when an answer was written: answers the next pipelined request.

        One timer per connection, which is set again when it fires: one per request, as uvicorn has, costs more than all
        checks of heads.
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
            self._watch_idle(self.timeout_keep_alive)

    def _watch_idle(self, after: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(after, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Called when the connection may be idle for long; the rest of an answered request does not count as use."""
        self.timeout_keep_alive_task = None
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if self.cycle.response_complete and not self._begun and not self.transport.is_closing():
            if left > 0:
                self._watch_idle(left)
            else:
                self.transport.close()

    def pause_writing(self) -> None:
        """Called when the write buffer is full."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """Called when the client has read enough of it."""
        self._stop_write_timer()
        super().resume_writing()

    def _watch_writing(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self._check_reading, unread)

    def _check_reading(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() >= unread:
            self.transport.abort()
        else:
            self._watch_writing()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
