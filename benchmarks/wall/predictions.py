"""Predictions of both forms: kept connections, a new connection for each request, and the memory that is left."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from benchmarks.serving import fleet, models, ours
from benchmarks.serving.fleet import Contender
from benchmarks.serving.payloads import Request
from benchmarks.wall.forms import ONE_PROCESS, WALLED, Form, Json, compared
from tests.helpers.processes import until

_CLOSE = {"Connection": "close"}
#: Processes that wait to take the place of another, and how long they load and others give memory back.
_STANDBYS, _SETTLING_S = {ONE_PROCESS: 1, WALLED: 2}, 10.0


def rates(forms: list[Form], *, rounds: int, seconds: float) -> Json:
    """Answers per second at 16 connections, by kind of request."""
    requests = {form.name: _requests(form) for form in forms}
    kinds = requests[forms[0].name]
    return {
        kind: _rate([form.contender(requests[form.name][kind]) for form in forms], rounds, seconds) for kind in kinds
    }


def _rate(contenders: list[Contender], rounds: int, seconds: float) -> Json:
    for contender in contenders:
        contender.checked(None)
    found = fleet.in_turn(contenders, lambda one: one.full(seconds), rounds=rounds)
    latency = compared(found, "p99_ms", more_is_better=False)
    return {"per_second": compared(found, "per_second", more_is_better=True), "p99_ms": latency}


def _requests(form: Form) -> dict[str, Request]:
    row, rows = models.digits().rows[:1], models.mnist().rows
    predict = ours.predict(form.digits, row)
    return {
        "predict, 1 row": predict,
        "infer, 1 row": ours.infer(form.digits, row),
        "infer, 256 rows of 784 in binary": ours.infer_binary(form.mnist, rows),
        "predict, 1 row, a connection each": predict.with_headers(_CLOSE),
    }


def memory(forms: list[Form]) -> Json:
    """Proportional set sizes in MiB of all processes of the API: standbys too, and without them."""
    found: Json = {}
    for form in forms:
        until(partial(_has_standbys, form), seconds=120, what="standbys wait")
    time.sleep(_SETTLING_S)
    for form in forms:
        each = {_called(command): 0.0 for command in form.api_processes().values()}
        for pid, command in form.api_processes().items():
            each[_called(command)] += _proportional_mb(pid)
        serving = sum(size for name, size in each.items() if not name.endswith("standby"))
        found[form.name] = {
            "all": round(sum(each.values()), 1),
            "without standbys": round(serving, 1),
            "processes": {name: round(size, 1) for name, size in each.items()},
        }
    more = {key: round(found[forms[1].name][key] - found[forms[0].name][key], 1) for key in ("all", "without standbys")}
    return {**found, "more behind the wall": more}


def _has_standbys(form: Form) -> bool:
    return sum("--standby" in command for command in form.api_processes().values()) == _STANDBYS[form.name]


def _called(command: str) -> str:
    """`serving standby` of a command line."""
    words = command.split()
    at = next((number for number, word in enumerate(words) if word.startswith("service.processes.")), None)
    name = "api" if at is None else words[at].rpartition(".")[2]
    if at is not None and name == "confined":
        name = words[at + 1]
    return f"{name} standby" if "--standby" in words else name


def _proportional_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
