"""The errors of a body that is too large, or that a client does not send to its end."""

from __future__ import annotations

from service.registry.errors import Stalled, TooLarge

#: As nginx's `client_body_timeout`.
BODY_TIMEOUT_S = 60.0


def too_large(limit: int) -> TooLarge:
    """The error of a body beyond the limit."""
    return TooLarge("too_large", f"the body is larger than the limit of {limit} bytes")


def stalled() -> Stalled:
    """The error of a client that stops in the middle of its body."""
    detail = f"nothing arrived for {BODY_TIMEOUT_S:.0f} s in the middle of the body; send the request again"
    return Stalled("body_stalled", detail)
