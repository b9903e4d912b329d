"""The HTTP/1.1 protocol of one connection: admission, timeouts of reading and writing, its hand-over, and its end.

A connection whose next request another process answers goes there with the bytes read, from where the head of that
request begins. The parser does not say where that is, so the bytes of a head are kept where its beginning is known: at
the beginning of a segment, or where a body of known length ends.
"""

from __future__ import annotations

import asyncio
import typing
from collections.abc import Callable
from typing import Any

from service.transport.head_protocol import SURPLUS_S, HeadProtocol
from service.transport.request_head import Refusal, too_many

#: How long a connection that is closed is still read from, where its client has not sent everything: closed at once,
#: the kernel answers what comes with a reset, and the client may never see the answer that explains it.
LINGER_S = 2.0
#: How long a client may read nothing of what was sent.
WRITE_TIMEOUT_S = 60.0
#: How long a new connection may send nothing: browsers open some ahead.
SILENCE_S = 30.0
#: A client that has ended its side may be gone: only writing shows it (RFC 9110, 15.2: any number of 1xx may come).
_PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PROBE_AFTER_S = 0.05
_PROBE_EVERY_S = 1.0


class GatheringTransport:
    """Writes at the end of the present turn of the loop; everything else is the transport that it wraps.

    Args:
        lingers: whether the client may still be sending; then `close` ends this side first, and all of it soon after.
    """

    __slots__ = ("_held", "_lingering", "_lingers", "_loop", "_transport")

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, lingers: Callable[[], bool] = lambda: False
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._lingers = lingers
        self._held: list[bytes] = []
        self._lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write at the end of this turn, in order."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def write_now(self, data: bytes) -> None:
        self._held.append(data)
        self._flush()

    def get_write_buffer_size(self) -> int:
        unsent: int = self._transport.get_write_buffer_size()
        return unsent + sum(map(len, self._held))

    def is_closing(self) -> bool:
        return self._lingering or self._transport.is_closing()

    def close(self) -> None:
        if self._lingering:
            return
        self._flush()
        if not self._transport.is_closing() and self._lingers():
            self._lingering = True
            self._transport.write_eof()
            self._loop.call_later(LINGER_S, self._transport.close)
        else:
            self._transport.close()

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, []
            if not self.is_closing():  # the client may have gone within this turn
                self._transport.write(held[0] if len(held) == 1 else b"".join(held))


class HandOver(typing.Protocol):
    """Hands connections over to the process that answers their next request."""

    def is_elsewhere(self, path: bytes) -> bool:
        """True where another process answers a `POST` with this path; without a path, any other."""

    def hand_over(self, path: bytes, descriptor: int, received: bytes) -> bool:
        """Give the connection away with what was read of it; False where it is not taken."""


class Protocol(HeadProtocol):
    """One connection.

    - A surplus connection is answered 503 as soon as its first head is complete.
    - A client that has ended its side is answered; a closed connection is detected.
    - A connection whose client reads nothing for a minute is aborted; uvicorn itself waits without end.
    - Before each of its requests it may be handed over. One that was sent ahead of the answer before it (HTTP
      pipelining) is not: that answer ends the connection, and the client sends the request again. Where no process
      takes the connection the request is answered here.
    """

    def __init__(self, *args: Any, received: bytes = b"", hand_over: HandOver | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._hand_over = hand_over
        self._received = b""  # since the head of the request began, where that is known
        self._received_before = received  # by the process that handed the connection over
        self._reads_surplus = False  # a surplus connection that is read from
        self._ended = False  # the client sends nothing more
        self._idle_since = 0.0
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
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
        """True where the client may still be sending bytes that are not read any more."""
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
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
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

    def _take(self, data: bytes) -> None:
        if self._hand_over is not None:
            self._remember(data)
        super()._take(data)

    def _remember(self, data: bytes) -> None:
        """Keep the bytes of a head, by which it can be handed over."""
        if self._in_body:
            self._received = b""
        elif not self._begun:
            self._received = data
        elif self._received:
            self._received += data

    def _departs(self, method: bytes, path: bytes) -> bool:
        """Hand the connection over, where another process answers this request and takes it."""
        if self._hand_over is None:
            return False
        received, self._received = self._received, b""
        if method != b"POST":  # control's: it may know the session of a browser, which sends that with every link
            path = b""
        if not self._hand_over.is_elsewhere(path):
            return False
        if received and self._has_answered:
            return self._give_away(path, received)
        if self._is_answering:  # sent ahead: the client sends it again
            self.cycle.keep_alive = False
        else:
            self.transport.close()
        self._refused = True
        return True

    def _refuse(self, refusal: Refusal) -> None:
        self._received = b""
        super()._refuse(refusal)

    def depart(self) -> None:
        """Hand the connection over, if no request of it is under way: this process ends."""
        if self._hand_over is None or self._refused or self._in_body or self._rest or not self._has_answered:
            return
        if self._received or not self._begun:
            self._give_away(b"", self._received)

    @property
    def _has_answered(self) -> bool:
        """True where every earlier answer was sent: two processes would write on one connection."""
        return not self._is_answering and not self.transport.get_write_buffer_size()

    def _give_away(self, path: bytes, received: bytes) -> bool:
        assert self._hand_over is not None
        descriptor = self.transport.get_extra_info("socket").fileno()
        if not self._hand_over.hand_over(path, descriptor, received + self._rest):
            return False
        self._refused = True
        self._no_timer()
        self._unset_keepalive_if_required()
        self.transport.abort()
        return True
