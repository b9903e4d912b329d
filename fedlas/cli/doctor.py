"""`fedlas doctor`: what is installed, which devices are really used, what is protected and reachable, and what to do.

Checks run one after another, each with time limits of its own. The devices are tried in another process, which
libraries that do not fit this machine may bring down. Service and worker add theirs by the entry-point group
`fedlas.doctor`.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib.metadata import EntryPoint, distribution, entry_points, version
from itertools import groupby
from typing import Any, Literal, TypeAlias

import httpx

from fedlas import __version__
from fedlas.client import configuration
from fedlas.client.errors import ConfigurationError
from fedlas.extras import TwoRuntimes, check_single_runtime, command

#: `skip` is neither good nor bad: it is not installed, or not in use here.
Status: TypeAlias = Literal["ok", "warn", "fail", "skip"]
#: A finding: `name`, `status`, `found` and maybe `remedy`; and `topic`, if it is not the name of its check.
Line = Mapping[str, str]
Check = Callable[[], Iterable[Line]]
_SERVER_S = 3.0
_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL", "skip": "-   "}


def run(*, as_json: bool = False, quiet: bool = False, seconds: float = 10.0) -> int:
    """Examine and write what was found, with `quiet` only what fails; returns 0 if nothing fails, else 1."""
    findings = [line for name, (check, extra) in checks(seconds).items() for line in collected(name, check, extra)]
    failing = [line for line in findings if line["status"] == "fail"]
    if as_json:
        print(json.dumps({"ok": not failing, "checks": findings}, indent=2))
    elif quiet:
        print("".join(f"{_written(line)}\n" for line in failing), end="")
    else:
        for topic, lines in groupby(findings, key=lambda line: line["topic"]):
            print(topic, *(f"  {_written(line)}" for line in lines), "", sep="\n")
        counts = {status: sum(line["status"] == status for line in findings) for status in _MARKS}
        print(f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failing")
    return int(bool(failing))


def checks(seconds: float) -> dict[str, tuple[Check, str]]:
    """Each check by its name, which heads its lines, and the extra that it needs."""
    return {
        "installed": (installed, "cli"),
        "devices": (partial(devices, seconds), "library"),
        "server": (server, "client"),
        **{point.name: (partial(_loaded, point), point.name) for point in entry_points(group="fedlas.doctor")},
    }


def _loaded(point: EntryPoint) -> Iterable[Line]:
    check: Check = point.load()
    return check()


def collected(topic: str, check: Check, extra: str) -> Iterator[Line]:
    """The findings of a check; what it lacks and what it raises are the last."""
    usual = {"topic": topic, "name": topic, "remedy": ""}
    try:
        for line in check():
            yield {**usual, **line}
    except ModuleNotFoundError as error:
        yield {**usual, "status": "skip", "found": f"{error.name} is not installed", "remedy": command(extra)}
    except Exception as error:
        found = " ".join(f"the check itself failed: {type(error).__name__}: {error}".split())
        yield {**usual, "status": "fail", "found": found}


def _written(line: Line) -> str:
    said = f"{_MARKS[line['status']]} {line['name']}: {line['found']}"
    return f"{said}\n{'':7}-> {line['remedy']}" if line["remedy"] else said


def said(name: str, status: Status, observation: str, remedy: str = "") -> Line:
    return {"name": name, "status": status, "found": observation, "remedy": remedy}


def installed() -> Iterator[Line]:
    """Python and FedLAS, and both builds of ONNX Runtime if they are there at once."""
    yield said("Python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield said("FedLAS", "ok", f"{version('fedlas')} in {distribution('fedlas').locate_file('')}")
    try:
        check_single_runtime()
    except TwoRuntimes as both:
        yield said("ONNX Runtime", "fail", both.found, both.remedy)


def devices(seconds: float) -> Iterator[Line]:
    """The devices really computed on, found in another process, which may say nothing of a thing and end by it."""
    words = [sys.executable, "-m", "fedlas.cli.devices"]
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, env=quiet)
        last = " ".join(done.stderr.decode(errors="replace")[-300:].split())
        written, end = done.stdout, {"status": "fail", "found": f"its process ended with {done.returncode}: {last}"}
    except subprocess.TimeoutExpired as late:
        written = late.stdout or b""
        end = {"status": "warn", "found": f"no answer within {seconds:g} s", "remedy": "try again with --timeout 60"}
    lines = [json.loads(line) for line in written.splitlines() if line.endswith(b"}")]
    for topic in ("ONNX Runtime", "PyTorch"):
        mine = [line for line in lines if line["topic"] == topic]
        yield from mine or [{**end, "topic": topic, "name": topic}]


def server() -> Iterator[Line]:
    """Reachable, ready, of this version, with this key."""
    try:
        settings = configuration.load_configuration()
    except ConfigurationError as problem:
        yield said("address", "fail", str(problem), "correct FEDLAS_URL, FEDLAS_API_KEY or the profile")
        return
    url, key = settings.url, settings.key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=_SERVER_S, trust_env=not settings.is_local) as http:
            yield from _examined(http, url, has_key=bool(key))
    except (httpx.TransportError, httpx.InvalidURL) as error:
        yield _unreachable(url, error, asked="FEDLAS_URL" in os.environ or url != configuration.DEFAULT_URL)


def _examined(http: httpx.Client, url: str, *, has_key: bool) -> Iterator[Line]:
    if _json(http.get("/healthz")).get("status") != "ok":
        remedy = "let FEDLAS_URL name the root of the service, without /v1"
        yield said("address", "fail", f"{url} answers, but is no FedLAS service", remedy)
        return
    yield said("address", "ok", f"{url} answers")
    yield from _readiness(_json(http.get("/readyz")))
    yield from _key_and_version(http.get("/v2"), has_key=has_key)


def _readiness(ready: dict[str, Any]) -> Iterator[Line]:
    bad = {name: told for name, told in ready.get("checks", {}).items() if told != "ok"}
    for name, told in bad.items():
        yield said(name, "fail", f"the server says {told}", "see the log of the server, and its settings")
    if not bad:
        yield said("readiness", "ok", f"ready; predictions run on {ready.get('inference', 'an unknown device')}")
    workers = ready.get("workers") or {}
    if workers.get("inspect") and ready.get("uploads"):
        yield said("uploads", "fail", ready["uploads"], "run fedlas doctor on the worker's machine, and read its log")
    idle = sorted(queue for queue in ("inspect", "calibrate.cpu", "predict") if not workers.get(queue))
    if idle:
        yield said(
            "workers",
            "warn",
            f"none for {', '.join(idle)}: such work waits",
            "start one beside the server: python -m worker",
        )
    else:
        told = ", ".join(f"{queue} {count}" for queue, count in sorted(workers.items()) if count)
        yield said("workers", "ok", told)


def _key_and_version(answer: httpx.Response, *, has_key: bool) -> Iterator[Line]:
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        observation = "the server does not know this key" if has_key else "the server wants a key, and none is set"
        yield said("key", "fail", observation, "export FEDLAS_API_KEY=… with one of the server's FEDLAS_API_KEYS")
        return
    yield said("key", "ok", "the server takes it" if has_key else "none is set, and none is needed")
    theirs = str(_json(answer).get("version", "unknown"))
    same = theirs.split(".")[:2] == __version__.split(".")[:2]
    remedy = "" if same else f"pip install 'fedlas=={theirs}'"
    yield said("version", "ok" if same else "warn", f"the server is {theirs}, this is {__version__}", remedy)


def _unreachable(url: str, error: Exception, *, asked: bool) -> Line:
    observation = f"{url} does not answer ({str(error) or type(error).__name__})"
    if not asked:
        return said(
            "address", "skip", f"{observation}, and FEDLAS_URL names no other", "fedlas serve, or export FEDLAS_URL=…"
        )
    return said("address", "fail", observation, "start the server, or correct FEDLAS_URL")


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
