"""The hand-over of a connection whose next request another process answers: it goes there with the bytes read.

What goes with it begins where the head of that request begins. The parser does not say where that is, so the bytes of a
head are kept where its beginning is known: at the beginning of a segment, or where the body before it ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from service.transport.head_protocol import HeadProtocol
from service.transport.request_head import Refusal

#: A body in chunks ends with one, which may have begun in an earlier segment.
_EMPTY_LINE = re.compile(rb"\A(?:\r?\n)+|\r\n\r\n")


class HandOver(Protocol):
    """Hands connections over to the process that answers their next request."""

    def is_elsewhere(self, path: bytes, authorization: bytes) -> bool:
        """Whether another process answers a `POST` with this path and `Authorization`; without a path, any other."""

    def hand_over(self, path: bytes, authorization: bytes, descriptor: int, received: bytes) -> bool:
        """Give the connection away with what was read of it; False where it is not taken."""


class DepartingProtocol(HeadProtocol):
    """A connection that may be handed over before each of its requests.

    - A request that was sent ahead of the answer before it (HTTP pipelining) is not: that answer ends the connection,
      and the client sends the request again.
    - Where no process takes the connection the request is answered here.
    """

    def __init__(self, *args: Any, hand_over: HandOver | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._hand_over = hand_over
        self._received = b""  # since the head of the request began, where that is known
        self._body_left = 0  # bytes of a body of known length

    def data_received(self, data: bytes) -> None:
        """Called by the transport, with up to 256 KiB."""
        if self._hand_over is not None and not self._refused:
            if self._in_body and not self._is_answering:
                data = self._after_body(data)
            self._remember(data)
        super().data_received(data)

    def _after_body(self, data: bytes) -> bytes:
        """Read the rest of a body whose request is answered already; returns what stands from the next request on."""
        known = self._body_left > 0
        at = 0
        for end in (self._body_left,) if known else (found.end() for found in _EMPTY_LINE.finditer(data)):
            if end >= len(data) or not self._in_body:
                break
            super().data_received(data[at:end])
            at = end
        return data[at:]

    def _remember(self, data: bytes) -> None:
        """Keep the bytes of a head, by which it can be handed over."""
        if self._in_body:
            self._received = b""
        elif not self._begun:
            self._received = data
        elif self._received:
            self._received += data

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body_left -= len(body)
        super().on_body(body)

    def _departs(self, method: bytes, path: bytes, found: Mapping[bytes, bytes]) -> bool:
        """Hand the connection over, where another process answers this request and takes it."""
        if self._hand_over is None:
            return False
        received, self._received = self._received, b""
        self._body_left = int(found.get(b"content-length", 0))
        authorization = found.get(b"authorization", b"")
        if method != b"POST":  # control's: it may know the session of a browser, which sends that with every link
            path = b""
        if not self._hand_over.is_elsewhere(path, authorization):
            return False
        if received and self._has_answered:
            return self._give_away(path, authorization, received)
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
        if self._hand_over is None or self._refused or self._in_body or not self._has_answered:
            return
        if self._received or not self._begun:
            self._give_away(b"", b"", self._received)

    @property
    def _has_answered(self) -> bool:
        """Whether every earlier answer was sent: two processes would write on one connection."""
        return not self._is_answering and not self.transport.get_write_buffer_size()

    def _give_away(self, path: bytes, authorization: bytes, received: bytes) -> bool:
        assert self._hand_over is not None
        descriptor = self.transport.get_extra_info("socket").fileno()
        if not self._hand_over.hand_over(path, authorization, descriptor, received):
            return False
        self._refused = True
        self._no_timer()
        self._unset_keepalive_if_required()
        self.transport.abort()
        return True
