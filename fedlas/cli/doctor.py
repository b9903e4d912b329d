"""`fedlas doctor`: what is installed, which devices are really used, what is protected and reachable, and what to do.

Each check runs in a thread, all at the same time, and one that hangs is not waited for. The devices are tried in a
process of their own, which libraries that do not fit this machine may bring down. Distributions add checks by the
entry-point group `fedlas.doctor`.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import EntryPoint, distribution, entry_points, metadata, version
from itertools import groupby
from pathlib import Path
from threading import Thread
from typing import Any, Literal, TypeAlias, get_args

import httpx
from packaging.requirements import Requirement

from fedlas import __version__
from fedlas.client import configuration
from fedlas.client.errors import ConfigurationError
from fedlas.extras import TwoRuntimes, beside, check_single_runtime, command, distribution_of, qualified
from fedlas.extras import installed as _version

#: `skip` is neither good nor bad: it is not installed, or not in use here.
Status: TypeAlias = Literal["ok", "warn", "fail", "skip"]
#: A finding as a check says it: `name`, `status`, `found` and maybe `remedy`; and `topic`, where it is not the check's.
Line = Mapping[str, str]
Check = Callable[[], Iterable[Line]]
_SERVER_S = 3.0
#: How a status is written, and its colour on a terminal.
_MARKS = {"ok": ("ok  ", 32), "warn": ("warn", 33), "fail": ("FAIL", 31), "skip": ("-   ", 2)}
#: Extras that are asked for by name, in the order of what they are for; the others are parts of these.
EXTRAS = [
    "client",
    "cli",
    "arrays",
    "library",
    "sklearn",
    "service",
    "worker",
    "standalone",
    "postgresql",
    "s3",
    "otel",
]
_GIBIBYTE = 1024**3


@dataclass(frozen=True)
class Finding:
    """One line of `fedlas doctor`: its heading, the thing, a phrase about it, and what to do, if anything."""

    topic: str
    name: str
    status: Status
    found: str
    remedy: str = ""

    @classmethod
    def read(cls, topic: str, record: Mapping[str, object]) -> Finding:
        """Read what a check says, which another distribution may have written."""
        asked = record.get("status")
        status: Status = next((known for known in get_args(Status) if known == asked), "warn")
        named = {"name": topic, **record}
        name, observation, remedy = (" ".join(str(named.get(key, "")).split()) for key in ("name", "found", "remedy"))
        return cls(str(record.get("topic", topic)), name, status, observation, remedy)


def run(*, as_json: bool = False, quiet: bool = False, seconds: float = 10.0) -> int:
    """Examine and write what was found, with `quiet` only what fails; returns 0 where nothing fails, else 1."""
    findings = examine(all_checks(seconds), seconds=seconds)
    failing = [finding for finding in findings if finding.status == "fail"]
    if as_json:
        print(json.dumps({"ok": not failing, "checks": [asdict(finding) for finding in findings]}, indent=2))
    elif quiet:
        print("".join(f"{_line(finding)}\n" for finding in failing), end="")
    else:
        print("\n".join(_page(findings)))
    return int(bool(failing))


def all_checks(seconds: float) -> dict[str, tuple[Check, str]]:
    """Check → what gives its lines, and the extra that it needs; its name is the heading of its lines."""
    return {
        "installed": (installed, "cli"),
        "devices": (partial(devices, seconds), "library"),
        "machine": (machine, "cli"),
        "server": (server, "client"),
        **{point.name: (partial(_loaded, point), point.name) for point in entry_points(group="fedlas.doctor")},
    }


def _loaded(point: EntryPoint) -> Iterable[Line]:
    check: Check = point.load()
    return check()


def examine(checks: Mapping[str, tuple[Check, str]], *, seconds: float) -> list[Finding]:
    """The findings of all checks, of which each takes `seconds` at most; what it had found until then is kept."""
    warnings.simplefilter("ignore")
    by_check: dict[str, list[Finding]] = {name: [] for name in checks}
    threads = {}
    for name, (check, extra) in checks.items():
        threads[name] = Thread(target=collect, args=(by_check[name], name, check, extra), daemon=True)
        threads[name].start()
    deadline = time.monotonic() + seconds
    for name, thread in threads.items():
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            by_check[name] = [*by_check[name], Finding.read(name, _late(seconds))]
    return [finding for findings in by_check.values() for finding in findings]


def collect(findings: list[Finding], name: str, check: Check, extra: str) -> None:
    """Add the findings of one check, of which what it lacks and what it raises are the last."""
    try:
        for line in check():
            findings.append(Finding.read(name, line))
    except ModuleNotFoundError as error:
        findings.append(Finding(name, name, "skip", f"{error.name} is not installed", command(extra)))
    except Exception as error:
        broken = {"status": "fail", "found": f"the check itself failed: {type(error).__name__}: {error}"}
        findings.append(Finding.read(name, broken))


def _late(seconds: float) -> Line:
    return {"status": "warn", "found": f"no answer within {seconds:g} s", "remedy": "try again with --timeout 60"}


def _page(findings: Sequence[Finding]) -> list[str]:
    lines = []
    for topic, group in groupby(findings, key=lambda finding: finding.topic):
        lines += [_styled(topic, 1), *(f"  {_line(finding)}" for finding in group), ""]
    counts = {status: sum(finding.status == status for finding in findings) for status in ("ok", "warn", "fail")}
    return [*lines, f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failing"]


def _line(finding: Finding) -> str:
    line = f"{_styled(*_MARKS[finding.status])} {finding.name}: {finding.found}"
    return f"{line}\n{'':7}-> {finding.remedy}" if finding.remedy else line


def _styled(text: str, code: int) -> str:
    """Colours where a person looks at them and has not asked for none (https://no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    return text if plain else f"\033[{code}m{text}\033[0m"


def said(name: str, status: Status, observation: str, remedy: str = "") -> Line:
    return {"name": name, "status": status, "found": observation, "remedy": remedy}


def installed() -> Iterator[Line]:
    """Python and FedLAS, both builds of ONNX Runtime at once, and each extra, complete or not."""
    yield said("Python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield said("FedLAS", "ok", f"{version('fedlas')} in {distribution('fedlas').locate_file('')}")
    try:
        check_single_runtime()
    except TwoRuntimes as both:
        yield said("ONNX Runtime", "fail", both.found, both.remedy)
    for extra in EXTRAS:
        yield _extra(beside(extra))


def _extra(extra: str) -> Line:
    name, needed = qualified(extra), requirements(extra)
    if lacking := sorted(name for name in needed if _version(name) is None):
        return said(name, "skip", f"not installed: lacks {', '.join(lacking)}", command(extra))
    wrong = {name: needed[name] for name in needed if not needed[name].specifier.contains(_version(name) or "", True)}
    if wrong:
        told = "; ".join(f"{name} {_version(name)}, expected {wrong[name].specifier}" for name in sorted(wrong))
        return said(name, "fail", f"not supported: {told}", command(extra))
    return said(name, "ok", "complete")


def requirements(extra: str) -> dict[str, Requirement]:
    """Distribution → requirement of an extra on this platform, with those of the extras that it names.

    Of an extra whose distribution is not installed no more is known: that one is all it requires.
    """
    if _version(own := distribution_of(extra)) is None:
        return {own: Requirement(own)}
    needed: dict[str, Requirement] = {}
    for line in metadata(own).get_all("Requires-Dist", []):
        requirement = Requirement(line)
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name in ("fedlas", "fedlas-service"):
            for part in sorted(requirement.extras):
                needed |= requirements(part)
        else:
            needed[requirement.name] = requirement
    return needed


def devices(seconds: float) -> Iterator[Line]:
    """The devices really computed on, found in another process, which may say nothing of a thing and end by it."""
    words = [sys.executable, "-m", "fedlas.cli.devices"]
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds - 0.5, env=quiet)
        last = " ".join(done.stderr.decode(errors="replace")[-300:].split())
        written, end = done.stdout, {"status": "fail", "found": f"its process ended with {done.returncode}: {last}"}
    except subprocess.TimeoutExpired as late:
        written, end = late.stdout or b"", dict(_late(seconds))
    lines = [json.loads(line) for line in written.splitlines() if line.endswith(b"}")]
    for topic in ("ONNX Runtime", "PyTorch"):
        mine = [line for line in lines if line["topic"] == topic]
        yield from mine or [{**end, "topic": topic, "name": topic}]


def machine() -> Iterator[Line]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield said("cores", "ok", f"{usable} of {os.cpu_count()} may be used")
    data = Path(os.environ.get("FEDLAS_DATA_DIR") or "fedlas-data").absolute()
    yield _disk("data folder", data, "FEDLAS_DATA_DIR")
    yield _disk("temporary folder", Path(tempfile.gettempdir()), "TMPDIR")


def _disk(name: str, folder: Path, variable: str) -> Line:
    place = next(path for path in (folder, *folder.parents) if path.exists())
    room = shutil.disk_usage(place).free
    observation = f"{folder}: {room / _GIBIBYTE:.1f} GiB are free"
    remedy = f"make room, or let {variable} name a folder on another disk"
    if not os.access(place, os.W_OK):
        return said(
            name, "fail", f"{place} cannot be written to by this user", f"let {variable} name a folder that can"
        )
    if room < 5 * _GIBIBYTE:
        return said(name, "fail" if room < _GIBIBYTE / 4 else "warn", observation, remedy)
    return said(name, "ok", observation)


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
