"""HTTP requests as bytes, well formed or not, and attacks made of them; nothing is sent here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.weight.content import NOTHING, Content, text

MIB = 1024 * 1024
#: What one body may have: `FEDLAS_MAX_PREDICT_BYTES` is this by default, and so is what it inflates to.
MOST_BODY = 64 * MIB
#: What an attacker sends in one request beyond bodies that are allowed: a head, trailers, an upload.
MOST_WIRE = 256 * MIB


class TooBig(ValueError):
    """This point of the space is no request of allowed size."""


@dataclass(frozen=True)
class Shot:
    """The same bytes on one or several connections at once.

    Attributes:
        expects: False for what is no whole request: it is held open, and counted whether the server holds it too.
        reads: whether the client reads what it is answered.
        behind: sent on the same connection once something was answered.
    """

    wire: Content
    connections: int = 1
    expects: bool = True
    reads: bool = True
    behind: Content = NOTHING

    @property
    def size(self) -> int:
        """Of everything that is sent, in bytes."""
        return (self.wire.size + self.behind.size) * self.connections

    def __str__(self) -> str:
        times = "" if self.connections == 1 else f"on {self.connections:,} connections: "
        behind = f", behind its answer {self.behind}" if self.behind.size else ""
        silence = "" if self.expects else ", then silence"
        return times + str(self.wire) + behind + silence + ("" if self.reads else ", unread")


@dataclass(frozen=True)
class Attack:
    """Shots, one after the other: the earlier ones may prepare what the last one asks for."""

    shots: Sequence[Shot]

    def holds(self, secret: bytes) -> bool:
        """Whether a head shows it."""
        return any(secret in piece.unit for shot in self.shots for piece in shot.wire.pieces)

    def __str__(self) -> str:
        return "; then ".join(map(str, self.shots))


def one(wire: Content) -> Attack:
    """An attack of a single request."""
    return Attack([Shot(wire)])


def request(
    method: str,
    target: str | Content,
    body: Content | None = None,
    *,
    kind: str = "application/json",
    key: str | None = None,
    headers: Content | bytes = b"",
    encoding: str = "",
    close: bool = True,
) -> Content:
    """A whole request; raises TooBig where its body is larger than any body may be.

    Args:
        kind: the Content-Type, where there is a body.
        key: sent as a bearer's, None for none.
        headers: further header lines, each with its end.
        encoding: the Content-Encoding, or nothing.
        close: ask for the connection to be closed afterwards.
    """
    line = f"{method} ".encode() + (text(target) if isinstance(target, str) else target) + b" HTTP/1.1\r\n"
    lines = ["Host: 127.0.0.1"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    lines += ["Connection: close"] if close else []
    if body is not None:
        if body.size > MOST_BODY:
            raise TooBig(f"{body.size} bytes")
        lines += [f"Content-Type: {kind}", f"Content-Length: {body.size}"]
        lines += [f"Content-Encoding: {encoding}"] if encoding else []
    head = line + "".join(f"{item}\r\n" for item in lines).encode() + headers + b"\r\n"
    return head if body is None else head + body


def bounded(wire: Content) -> Content:
    """The same; raises TooBig where even an attacker sends no more."""
    if wire.size > MOST_WIRE:
        raise TooBig(f"{wire.size} bytes")
    return wire
