"""Access control: which requests are answered, by the page that sends them, the host that they name, and their key.

Keys protect against neither pages nor hosts. A browser adds stored credentials to every request, whichever page
makes it; on loopback that includes being on this machine. The browser says where the page came from (`Origin`,
`Sec-Fetch-Site`), and no page can change that. Where a page's own name resolves to loopback (DNS rebinding), only
`Host` shows it.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.plumbing.problems import problem
from service.registry.settings import ServiceSettings, is_loopback

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
#: Spellings of `Host` that are remembered: an attacker must not fill the memory with more.
_MAX_KNOWN = 100


def headers_of(scope: Scope) -> Mapping[bytes, bytes]:
    """The headers by lower-case name; of several lines with one name the last."""
    headers: Mapping[bytes, bytes] = scope.get("fedlas.headers") or dict(scope["headers"])
    return headers


class Keys:
    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def known(self, authorization: bytes) -> bool:
        """True where this `Authorization` holds one of the keys."""
        scheme, _, given = authorization.partition(b" ")
        given = given.strip()
        # No early exit: the time must not show which key was nearly right.
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        return scheme.lower() == b"bearer" and any(matches)

    async def ask(self, authorization: bytes) -> bool:
        return self.known(authorization)


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

    def refusal(self, scope: Scope, headers: Mapping[bytes, bytes], *, admitted: bool) -> JSONResponse | None:
        """The answer to a request that is not answered, `admitted` or not by its key; None for all others."""
        path = scope["path"]
        if not self.keyed and headers.get(b"host") not in self._known and not self._is_ours(headers[b"host"]):
            detail = "without keys this service answers to 'localhost' and addresses of loopback only; name others"
            return problem(421, "unknown_host", f"{detail} in FEDLAS_ALLOWED_HOSTS", path=path)
        if (b"origin" in headers or b"sec-fetch-site" in headers) and self._is_foreign(scope["method"], headers):
            detail = "this request was made by a page of another site, which may not send here; a proxy's own name"
            return problem(403, "foreign_origin", f"{detail} is to be in FEDLAS_ALLOWED_HOSTS", path=path)
        if not self.keyed or admitted or is_open(path):
            return None
        detail = "send a key of this service as 'Authorization: Bearer …'"
        return problem(401, "unauthorized", detail, path=path, headers={"WWW-Authenticate": "Bearer"})

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


class AccessMiddleware:
    """Answers requests that are not admitted, before anything else sees them."""

    def __init__(self, app: ASGIApp, access: AccessControl, keys: Keys) -> None:
        self.app = app
        self._access = access
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None
        if scope["type"] == "http":
            headers = headers_of(scope)
            admitted = self._keys.known(headers.get(b"authorization", b""))
            refusal = self._access.refusal(scope, headers, admitted=admitted)
        await (refusal or self.app)(scope, receive, send)


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
