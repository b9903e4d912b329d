"""One attempt to deliver a message over HTTP, to permitted addresses only; independent of schedule and records.

No redirect is followed, no proxy of the environment is used, certificates are verified, and an answer's body is read
only so that the receiver can finish writing a short one: nothing of it is kept or told, for a webhook must not be a way
to read what other servers say.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial

import httpcore

from service.registry.webhooks import Endpoint, Policy, parse_url
from worker.outside.webhooks.network import Deadline, GuardedBackend, Refused, Resolver, Unresolved, resolve
from worker.outside.webhooks.schedule import parse_retry_after

#: For all of an attempt, name resolution included; the specification recommends 15 to 30 s.
ATTEMPT_SECONDS = 20.0
_MOST_BODY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class WebhookResponse:
    """The outcome of an attempt: a status, or else the reason why there is none."""

    status_code: int | None
    retry_after: timedelta | None
    error: str | None
    seconds: float


def deliver(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    policy: Policy,
    seconds: float = ATTEMPT_SECONDS,
    resolver: Resolver = resolve,
    tls: ssl.SSLContext | None = None,
) -> WebhookResponse:
    """POST `body` to `url` once; whatever the other side does, the answer tells it and nothing is raised.

    The status line decides: what goes wrong afterwards, in the unread body, changes nothing.

    Args:
        url: As `parse_url` takes it.
        headers: Those of `signed_headers`; `host`, `content-length` and `connection` are added.
        body: The bytes that were signed.
        policy: Which addresses may be connected to.
        seconds: When everything is over.
        resolver: From a name to its addresses.
        tls: Default: the authorities that the system, `SSL_CERT_FILE` or certifi names.
    """
    begin = time.monotonic()
    status_code, retry_after, error = None, None, None
    try:
        endpoint = parse_url(url)
        deadline = Deadline(seconds)
        objection = partial(policy.objection, secure=endpoint.secure)
        backend = GuardedBackend(objection=objection, resolver=resolver, deadline=deadline)
        status_code, retry_after = _post(endpoint, headers, body, backend, tls or _trusted())
    except (ValueError, Refused, Unresolved) as problem:
        error = str(problem)
    except httpcore.TimeoutException:
        error = "no answer in time"
    except httpcore.NetworkError as problem:
        error = f"the connection failed: {problem}"
    except httpcore.RemoteProtocolError:
        # Its words may quote what the other side sent.
        error = "the answer is not HTTP"
    return WebhookResponse(status_code, retry_after, error, time.monotonic() - begin)


def _post(
    endpoint: Endpoint, headers: Mapping[str, str], body: bytes, backend: GuardedBackend, tls: ssl.SSLContext
) -> tuple[int, timedelta | None]:
    scheme, host = b"https" if endpoint.secure else b"http", endpoint.host.encode("ascii")
    origin = httpcore.Origin(scheme, host, endpoint.port)
    url = httpcore.URL(scheme=scheme, host=host, port=endpoint.port, target=endpoint.target.encode("ascii"))
    sent = [("host", endpoint.authority), *headers.items(), ("connection", "close")]
    with (
        httpcore.HTTPConnection(origin, ssl_context=tls, network_backend=backend) as connection,
        connection.stream("POST", url, headers=sent, content=body) as response,
    ):
        _drain(response)
        asked = next((value for name, value in response.headers if name.lower() == b"retry-after"), b"")
        return response.status, parse_retry_after(asked.decode("latin-1"), now=datetime.now(UTC))


def _drain(response: httpcore.Response) -> None:
    """Read a bounded piece of the body: a receiver that is cut off while it writes may take its work back."""
    left = _MOST_BODY_BYTES
    with suppress(httpcore.TimeoutException, httpcore.NetworkError, httpcore.RemoteProtocolError):
        for piece in response.iter_stream():
            left -= len(piece)
            if left <= 0:
                return


@cache
def _trusted() -> ssl.SSLContext:
    """Made once: reading some hundred certificates takes longer than most deliveries."""
    return httpcore.default_ssl_context()
