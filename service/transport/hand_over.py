"""The hand-over of a connection whose next request another process answers: it goes there with the bytes read.

What goes with it begins where the head of that request begins. The parser does not say where that is, so the bytes of a
head are kept where its beginning is known: at the beginning of a segment, or where a body of known length ends.
"""

from __future__ import annotations

from typing import Any, Protocol

from service.transport.head_protocol import HeadProtocol
from service.transport.request_head import Refusal


class HandOver(Protocol):
    """Hands connections over to the process that answers their next request."""

    def is_elsewhere(self, path: bytes) -> bool:
        """Whether another process answers a `POST` with this path; without a path, any other."""

    def hand_over(self, path: bytes, descriptor: int, received: bytes) -> bool:
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
        """Whether every earlier answer was sent: two processes would write on one connection."""
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
