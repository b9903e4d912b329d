"""Access control: which requests are answered, by the page that sends them, the host that they name, and their key."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.cross_site import Sites
from service.api.problems import problem
from service.settings import ServiceSettings

#: Probes and the documentation hold no secrets, and neither a load balancer nor a browser's address bar has a key.
_OPEN_PATHS = frozenset(
    {"/", "/healthz", "/readyz", "/docs", "/redoc", "/openapi.json", "/v2/health/live", "/v2/health/ready"}
)
_OPEN_FILES = "/static-offline-docs/"


def headers_of(scope: Scope) -> Mapping[bytes, bytes]:
    """The headers by lower-case name; of several lines with one name the last."""
    headers: Mapping[bytes, bytes] = scope.get("fedlas.headers") or dict(scope["headers"])
    return headers


class AccessControl:
    """Decides about a request from its head. Without configured keys every client of this machine is admitted."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._sites = Sites.of(settings)
        self._keys = [key.encode() for key in settings.api_keys]

    def refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> JSONResponse | None:
        """The answer to a request that is not admitted; None for all others."""
        if refusal := self._sites.refusal(scope, headers):
            return refusal
        if not self._keys or self._has_key(headers.get(b"authorization", b"")) or _is_open(scope["path"]):
            return None
        detail = "send a key of this service as 'Authorization: Bearer …'"
        return problem(401, "unauthorized", detail, path=scope["path"], headers={"WWW-Authenticate": "Bearer"})

    def _has_key(self, authorization: bytes) -> bool:
        scheme, _, given = authorization.partition(b" ")
        given = given.strip()
        # No early exit: the time must not show which key was nearly right.
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        return scheme.lower() == b"bearer" and any(matches)


class AccessMiddleware:
    """Answers requests that are not admitted, before anything else sees them."""

    def __init__(self, app: ASGIApp, access: AccessControl) -> None:
        self.app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._access.refusal(scope, headers_of(scope)) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith(_OPEN_FILES)
