"""The origin of the pages: scheme, host and port under which a browser sees this service."""

from __future__ import annotations

from collections.abc import Set

from starlette.requests import Request


def origin_of(request: Request, other_hosts: Set[str]) -> str:
    """The origin of a request's page.

    A proxy is not asked: the browser itself names the page that it comes from, in `Origin` with a form and in `Referer`
    with a link. Without either, as where an address was typed, the origin is that of this connection.

    Args:
        other_hosts: names under which browsers reach this service, beside the one that `Host` says.
    """
    netloc = request.url.netloc
    for name in ("origin", "referer"):
        scheme, _, rest = request.headers.get(name, "").partition("://")
        place = rest.partition("/")[0]
        if scheme in ("http", "https") and (place == netloc or place in other_hosts):
            return f"{scheme}://{place}"
    return f"{request.url.scheme}://{netloc}"
