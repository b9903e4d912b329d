"""Raw answers: status and headers of what a call received, beside what it returned."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, TypeVar

import httpx

T = TypeVar("T")

#: Answers that a call under `with_raw_response` has received so far.
KEPT: ContextVar[list[httpx.Response] | None] = ContextVar("KEPT", default=None)


@dataclass(frozen=True)
class RawResponse(Generic[T]):
    """What a call returned, and the last answer that it received.

    Attributes:
        value: what the call returns without this.
        http_response: the answer, with its `status_code`, `headers` and `content`.
    """

    value: T
    http_response: httpx.Response

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.http_response.status_code

    @property
    def headers(self) -> httpx.Headers:
        """The headers of the answer."""
        return self.http_response.headers

    @property
    def request_id(self) -> str | None:
        """What the server's log calls this request."""
        found: str | None = self.headers.get("x-request-id")
        return found
