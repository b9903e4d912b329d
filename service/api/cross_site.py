"""The check of sites: which web pages may send requests, and under which host names this service answers.

Keys protect against neither. A browser adds what it knows of its user to every request, whichever page makes it; on
loopback that includes being on this machine. The browser says where the page came from (`Origin`, `Sec-Fetch-Site`),
and no page can change that. Where a page's own name resolves to loopback (DNS rebinding), only `Host` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from starlette.responses import JSONResponse
from starlette.types import Scope

from service.api.problems import problem
from service.settings import ServiceSettings

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_OTHERS = frozenset({b"cross-site", b"same-site"})
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
#: Spellings of `Host` that are remembered: an attacker must not fill the memory with more.
_MOST_KNOWN = 100


class Sites:
    """Decides by `Host`, `Origin` and `Sec-Fetch-Site`.

    Args:
        names: hosts, without ports, under which browsers reach this service through a proxy that sends another `Host`.
        local: answer to names of loopback, and those, only.
    """

    def __init__(self, names: frozenset[str] = frozenset(), *, local: bool = False) -> None:
        self._names = names
        self._local = local
        self._known: set[bytes | None] = {None}  # HTTP/1.0, which no browser speaks

    @classmethod
    def of(cls, settings: ServiceSettings) -> Sites:
        """Without keys the service is for this machine only."""
        return cls(settings.allowed_hosts | {settings.listen_host.lower()}, local=not settings.api_keys)

    def refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> JSONResponse | None:
        """The answer to a request from another site or for another host; None for all others."""
        if self._local and headers.get(b"host") not in self._known and not self._is_ours(headers[b"host"]):
            detail = "without keys this service answers to 'localhost' and addresses of loopback only; name others"
            return problem(421, "unknown_host", f"{detail} in FEDLAS_ALLOWED_HOSTS", path=scope["path"])
        if (b"origin" in headers or b"sec-fetch-site" in headers) and scope["method"] not in _SAFE:
            return self._foreign(scope, headers)
        return None

    def _is_ours(self, host: bytes) -> bool:
        name = _name(host.decode("latin-1").lower())
        ours = name in self._names or name == "localhost" or name.endswith(".localhost") or _is_loopback(name)
        if ours and len(self._known) < _MOST_KNOWN:
            self._known.add(host)
        return ours

    def _foreign(self, scope: Scope, headers: Mapping[bytes, bytes]) -> JSONResponse | None:
        origin = headers.get(b"origin")
        if headers.get(b"sec-fetch-site") not in _OTHERS and (origin is None or self._is_own(origin, headers)):
            return None
        detail = "this request was made by a page of another site, which may not send here; a proxy's own name is to be"
        return problem(403, "foreign_origin", f"{detail} in FEDLAS_ALLOWED_HOSTS", path=scope["path"])

    def _is_own(self, origin: bytes, headers: Mapping[bytes, bytes]) -> bool:
        scheme, found, place = origin.decode("latin-1").lower().partition("://")
        if not found or scheme not in _DEFAULT_PORTS:  # "null": a page that is kept away from its own site
            return False
        host = headers.get(b"host", b"").decode("latin-1").lower()
        port = _DEFAULT_PORTS[scheme]
        return place.removesuffix(port) == host.removesuffix(port) or _name(place) in self._names


def _name(host: str) -> str:
    """A host without its port; of an IPv6 address without its brackets.

    >>> _name("localhost:8000"), _name("[::1]:8000")
    ('localhost', '::1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
