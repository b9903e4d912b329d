"""Access control: which requests are answered, by the page that sends them, the host that they name, and their key.

A key's scopes say what its holder may ask for; `needed_scope` says which of them a request needs.

Keys protect against neither pages nor hosts. A browser adds stored credentials to every request, whichever page
makes it; on loopback that includes being on this machine. The browser says where the page came from (`Origin`,
`Sec-Fetch-Site`), and no page can change that. Where a page's own name resolves to loopback (DNS rebinding), only
`Host` shows it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedlas.contract import keys as contract
from service.http.problems import problem
from service.registry.settings import ServiceSettings, is_loopback
from service.served.keys import ADMINISTRATOR, Grant, Keys

#: Probes, the documentation and the page where a key is entered hold no secrets, and neither a load balancer nor a
#: browser's address bar has a key.
_OPEN_PATHS = frozenset(
    {
        "/healthz",
        "/readyz",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/openapi-v2.json",
        "/sign-in",
        "/sign-out",
        "/v2/health/live",
        "/v2/health/ready",
    }
)
_OPEN_FILES = ("/static-offline-docs/", "/static/", "/errors/")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_OTHER_SITES = frozenset({b"cross-site", b"same-site"})
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
#: Predictions, and the page on which one is tried.
_PREDICTION = re.compile(
    r"/v1/(models|calibrators)/[^/]+/predict|/v2/models/[^/]+(/versions/[^/]+)?/infer|/models/[^/]+/try"
)
_MODEL = re.compile(r"(?:(?:/v[12])?/models|/v1/calibrators(?=/[^/]+/predict))/([^/]+)(?:/.*)?", re.DOTALL)
_ALL_MODELS = "/v2/models"
#: A list, though the protocol asks for it by POST.
_INDEX = "/v2/repository/index"
#: Models that an error lists.
_MAX_SHOWN = 10
#: The grant of a request, in its scope.
GRANT = "fedlas.grant"
#: How often it is looked whether the key of an open stream is still valid.
_LOOK_S = 2.0
#: Spellings of `Host` that are remembered: an attacker must not fill the memory with more.
_MAX_KNOWN = 100


def headers_of(scope: Scope) -> Mapping[bytes, bytes]:
    """The headers by lower-case name; of several lines with one name the last."""
    headers: Mapping[bytes, bytes] = scope.get("fedlas.headers") or dict(scope["headers"])
    return headers


def needed_scope(method: str, path: str) -> contract.Scope:
    """The scope that a request needs, of the API or of a page.

    >>> needed_scope("POST", "/v1/models/digits/predict"), needed_scope("GET", "/v2/models/digits")
    ('predict', 'predict')
    >>> needed_scope("GET", "/v1/jobs"), needed_scope("POST", "/v1/jobs"), needed_scope("GET", "/v1/keys")
    ('read', 'write', 'admin')
    """
    if path.startswith("/v1/keys"):
        return "admin"
    if path == "/metrics":
        return "metrics"
    if _PREDICTION.fullmatch(path) or (path.startswith("/v2") and method in SAFE_METHODS):
        return "predict"
    return "read" if method in SAFE_METHODS or path == _INDEX else "write"


class AccessControl:
    """Decides about a request from its head.

    Without configured keys every client of this machine is admitted, and only names of loopback are answered to.

    Args:
        names: hosts that browsers may name, beside `Host`.
        keyed: whether a key is needed.
    """

    def __init__(self, names: Iterable[str], *, keyed: bool) -> None:
        self.keyed = keyed
        self._names = frozenset(names)
        self._known: set[bytes | None] = {None}  # HTTP/1.0, which no browser speaks

    @classmethod
    def of(cls, settings: ServiceSettings) -> AccessControl:
        return cls(settings.host_names, keyed=bool(settings.api_keys))

    def refusal(self, scope: Scope, headers: Mapping[bytes, bytes], grant: Grant | None) -> JSONResponse | None:
        """The answer to a request that is not answered, by what its key grants; None for all others."""
        path = scope["path"]
        if not self.keyed and headers.get(b"host") not in self._known and not self._is_ours(headers[b"host"]):
            detail = "without keys this service answers to 'localhost' and addresses of loopback only; name others"
            return problem(421, "unknown_host", f"{detail} in FEDLAS_ALLOWED_HOSTS", path=path)
        if (b"origin" in headers or b"sec-fetch-site" in headers) and self._is_foreign(scope["method"], headers):
            detail = "this request was made by a page of another site, which may not send here; a proxy's own name"
            return problem(403, "foreign_origin", f"{detail} is to be in FEDLAS_ALLOWED_HOSTS", path=path)
        if not self.keyed or is_open(path):
            return None
        return _of_no_key(path, headers) if grant is None else _of_scope(path, scope["method"], grant)

    def _is_ours(self, host: bytes) -> bool:
        name = _name(host.decode("latin-1").lower())
        ours = name in self._names or name.endswith(".localhost") or is_loopback(name)
        if ours and len(self._known) < _MAX_KNOWN:
            self._known.add(host)
        return ours

    def _is_foreign(self, method: str, headers: Mapping[bytes, bytes]) -> bool:
        """True where a page of another site sends a request that could change something."""
        if method in SAFE_METHODS:
            return False
        if headers.get(b"sec-fetch-site") in _OTHER_SITES:
            return True
        if (origin := headers.get(b"origin")) is None:
            return False
        scheme, _, place = origin.decode("latin-1").lower().partition("://")
        if (port := _DEFAULT_PORTS.get(scheme)) is None:  # "null": a page that is kept away from its own site
            return True
        host = headers.get(b"host", b"").decode("latin-1").lower()
        return place.removesuffix(port) != host.removesuffix(port) and _name(place) not in self._names


def _of_no_key(path: str, headers: Mapping[bytes, bytes]) -> JSONResponse:
    given = headers.get(b"authorization", b"").partition(b" ")[2].strip().decode("latin-1")
    detail = "send a key of this service as 'Authorization: Bearer …'"
    if given.startswith(contract.PREFIX):
        detail = "this key was revoked, has expired, or is another service's; an administrator issues a new one"
        if not contract.is_whole(given):
            detail = "this key is cut off or misspelt: its last eight digits do not fit the rest"
    return problem(401, "unauthorized", detail, path=path, headers={"WWW-Authenticate": "Bearer"})


def _of_scope(path: str, method: str, grant: Grant) -> JSONResponse | None:
    """The answer where a valid key does not grant what is asked for; None where it does."""
    scope = needed_scope(method, path)
    if not grant.may(scope) and not (scope == "predict" and method in SAFE_METHODS and grant.may("read")):
        held = ", ".join(sorted(grant.scopes))
        detail = f"the key '{grant.name}' has the scopes {held}; this needs {scope}: an administrator issues such a key"
        return problem(403, "forbidden", detail, path=path)
    model = _MODEL.fullmatch(path)
    if grant.models is None or (path != _ALL_MODELS and (model is None or model[1] in grant.models)):
        return None
    allowed = ", ".join(sorted(grant.models)[:_MAX_SHOWN])
    refused = "list all models" if model is None else repr(model[1])[:120]
    return problem(403, "forbidden", f"the key '{grant.name}' may ask {allowed}, and not {refused}", path=path)


class AccessMiddleware:
    """Answers requests that are not admitted, before anything else sees them, and ends streams with their keys."""

    def __init__(self, app: ASGIApp, access: AccessControl, keys: Keys) -> None:
        self.app = app
        self._access = access
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = headers_of(scope)
        grant = self._keys.grant(headers.get(b"authorization", b"")) if self._access.keyed else ADMINISTRATOR
        if (refusal := self._access.refusal(scope, headers, grant)) is not None:
            await refusal(scope, receive, send)
            return
        scope = {**scope, GRANT: grant}
        if not self._access.keyed:
            await self.app(scope, receive, send)
            return
        ending = partial(self._await_end, headers.get(b"authorization", b""), grant)
        await answer_until(self.app, scope, receive, send, ending=ending)

    async def _await_end(self, authorization: bytes, grant: Grant | None) -> None:
        """Return when the key grants something else than it did, a few seconds later at most."""
        while self._keys.grant(authorization) == grant:
            await asyncio.sleep(_LOOK_S)


async def answer_until(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    ending: Callable[[], Coroutine[None, None, None]],
    last: bytes = b"",
) -> None:
    """Answer by an application; a stream of events ends when `ending` returns, and `last` is sent at its end."""
    watch: asyncio.Task[None] | None = None

    async def send_watching(message: Message) -> None:
        nonlocal watch
        await send(message)
        if message["type"] == "http.response.start" and _begins_stream(message):
            watch = asyncio.create_task(ending())
            watch.add_done_callback(lambda _: answering.cancel())

    answering = asyncio.ensure_future(app(scope, receive, send_watching))
    try:
        await answering
    except asyncio.CancelledError:
        if watch is None or not watch.done() or watch.cancelled():
            raise
        await send({"type": "http.response.body", "body": last})
    finally:
        answering.cancel()
        if watch is not None:
            watch.cancel()


def _begins_stream(message: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in message["headers"])


def is_open(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith(_OPEN_FILES)


def _name(host: str) -> str:
    """A host without its port; of an IPv6 address without its brackets.

    >>> _name("localhost:8000"), _name("[::1]:8000")
    ('localhost', '::1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")
