"""Paths: which of them are pages, and which belong to the API and its documentation."""

from __future__ import annotations

#: A page's script asks the API here, with its session's cookie: `/session/v1/…` is `/v1/…` with the session's key.
SESSION = "/session"
STATIC = "/static/"
SIGN_IN = "/sign-in"

_OF_THE_API = frozenset(
    {"v1", "v2", "docs", "redoc", "openapi.json", "healthz", "readyz", "metrics", "static-offline-docs"}
)


def is_page(path: str) -> bool:
    """Whether a cookie counts for this path.

    >>> is_page("/jobs"), is_page("/session/v1/jobs"), is_page("/v1/jobs"), is_page("/v1")
    (True, True, False, False)
    """
    return path.split("/", 2)[1] not in _OF_THE_API


def is_api_of_session(path: str) -> bool:
    """Whether this is a request to the API from a page.

    >>> is_api_of_session("/session/v1/jobs"), is_api_of_session("/sessions")
    (True, False)
    """
    return path.startswith((f"{SESSION}/v1/", f"{SESSION}/v2/"))


def safe_return(path: str) -> str:
    """The page to go to after signing in: a path of ours, whatever the link says.

    >>> safe_return("/jobs?status=failed"), safe_return("//evil.example"), safe_return("https://evil.example")
    ('/jobs?status=failed', '/', '/')
    """
    inside = path.startswith("/") and not path.startswith(("//", "/\\", SIGN_IN)) and path.isprintable()
    return path if inside else "/"
