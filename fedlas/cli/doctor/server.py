"""The server that commands ask: whether it answers, of which version it is, takes the key and has workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import httpx

from fedlas.client import configuration
from fedlas.client.errors import ConfigurationProblem

_TIMEOUT_S = 3.0

Line = dict[str, str]


def check() -> Iterator[Line]:
    """Reachable, ready, of this version, with this key."""
    try:
        found = configuration.load_configuration()
    except ConfigurationProblem as problem:
        yield _line("address", "fail", str(problem), "correct FEDLAS_URL, FEDLAS_API_KEY or the profile")
        return
    url, key = found.url, found.key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_S, trust_env=not found.is_local) as http:
            yield from _examined(http, url, has_key=bool(key))
    except (httpx.TransportError, httpx.InvalidURL) as error:
        yield _unreachable(url, error, asked="FEDLAS_URL" in os.environ or url != configuration.DEFAULT_URL)


def _examined(http: httpx.Client, url: str, *, has_key: bool) -> Iterator[Line]:
    if _json(http.get("/healthz")).get("status") != "ok":
        remedy = "let FEDLAS_URL name the root of the service, without /v1"
        yield _line("address", "fail", f"{url} answers, but is no FedLAS service", remedy)
        return
    yield _line("address", "ok", f"{url} answers")
    yield from _readiness(_json(http.get("/readyz")))
    yield from _key_and_version(http.get("/v2"), has_key=has_key)


def _readiness(ready: dict[str, Any]) -> Iterator[Line]:
    bad = {name: told for name, told in ready.get("checks", {}).items() if told != "ok"}
    for name, told in bad.items():
        yield _line(name, "fail", f"the server says {told}", "see the log of the server, and its settings")
    if not bad:
        yield _line("readiness", "ok", f"ready; predictions run on {ready.get('inference', 'an unknown device')}")
    workers = ready.get("workers") or {}
    idle = sorted(queue for queue in ("inspect", "calibrate.cpu", "predict") if not workers.get(queue))
    if idle:
        remedy = "start one beside the server: python -m worker"
        yield _line("workers", "warn", f"none for {', '.join(idle)}: such work waits", remedy)
    else:
        told = ", ".join(f"{queue} {count}" for queue, count in sorted(workers.items()) if count)
        yield _line("workers", "ok", told)


def _key_and_version(answer: httpx.Response, *, has_key: bool) -> Iterator[Line]:
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        found = "the server does not know this key" if has_key else "the server wants a key, and none is set"
        yield _line("key", "fail", found, "export FEDLAS_API_KEY=… with one of the server's FEDLAS_API_KEYS")
        return
    yield _line("key", "ok", "the server takes it" if has_key else "none is set, and none is needed")
    from fedlas import __version__

    theirs = str(_json(answer).get("version", "unknown"))
    same = theirs.split(".")[:2] == __version__.split(".")[:2]
    remedy = "" if same else f"pip install 'fedlas=={theirs}'"
    yield _line("version", "ok" if same else "warn", f"the server is {theirs}, this is {__version__}", remedy)


def _unreachable(url: str, error: Exception, *, asked: bool) -> Line:
    found = f"{url} does not answer ({str(error) or type(error).__name__})"
    if not asked:
        return _line(
            "address", "skip", f"{found}, and FEDLAS_URL names no other", "fedlas serve, or export FEDLAS_URL=…"
        )
    return _line("address", "fail", found, "start the server, or correct FEDLAS_URL")


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _line(name: str, status: str, found: str, remedy: str = "") -> Line:
    return {"name": name, "status": status, "found": found, "remedy": remedy}
