"""Predictions of both forms: kept connections, a new connection for each request, and the memory that is left."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.serving import fleet, models, ours
from benchmarks.serving.fleet import Contender
from benchmarks.serving.payloads import Request
from benchmarks.wall.forms import ONE_PROCESS, WALLED, Form, Json, compared

_CLOSE = {"Connection": "close"}
#: How long processes take to give memory back.
_SETTLING_S = 10.0


def rates(forms: list[Form], *, rounds: int, seconds: float) -> Json:
    """Answers per second at 16 connections, by kind of request."""
    requests = {form.name: _requests(form) for form in forms}
    of = {kind: [form.contender(requests[form.name][kind]) for form in forms] for kind in requests[forms[0].name]}
    return {kind: _rate(contenders, rounds, seconds) for kind, contenders in of.items()}


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
    """Proportional set sizes in MiB of all processes of the API, by their names, after a second of each request."""
    rates(forms, rounds=1, seconds=1.0)
    time.sleep(_SETTLING_S)
    found: Json = {}
    for form in forms:
        each = {name: _proportional_mb(pid) for name, pid in form.api_processes().items()}
        sizes = {name: round(size, 1) for name, size in each.items()}
        found[form.name] = {"all": round(sum(each.values()), 1), "processes": sizes}
    return {**found, "more behind the wall": round(found[WALLED]["all"] - found[ONE_PROCESS]["all"], 1)}


def _proportional_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
