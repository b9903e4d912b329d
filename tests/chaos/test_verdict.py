"""The verdict over a run: it accepts one in which everything was kept, and names each promise that was broken."""

from __future__ import annotations

import copy
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.evidence import Evidence
from tests.chaos.orders import Acknowledged, Batch, Order
from tests.chaos.receiver import Delivered
from tests.chaos.verdict import lines
from tests.chaos.watch import Seen

JOB, OTHER = f"job_{'a' * 26}", f"job_{'b' * 26}"
BATCH = f"bat_{'c' * 26}"
DIGEST, PART = "0" * 64, "2" * 64
ANSWERS = [{"row": row, "label": "3", "confidence": 0.9, "uncalibrated_confidence": 0.95} for row in range(2)]
OTHERWISE = [ANSWERS[0], {**ANSWERS[1], "confidence": 0.8}]
LIE = {"type": "job.succeeded", "data": {"id": OTHER}}
TWICE, EARLY = {"status": "succeeded", "at": "2026-01-01T00:00:03Z"}, "2025-12-31T23:50:00Z"
COLUMNS = ("id", "status", "verdict", "report_sha256", "calibrated_model_id")
ROWS = [(JOB, "succeeded", "trained", DIGEST, "m"), (OTHER, "cancelled", None, None, None)]


def ndjson(rows: list[dict[str, Any]]) -> bytes:
    """Answers as a customer fetches them."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def report(job_id: str, nll: float) -> bytes:
    """The report of a job."""
    return f'{{"job": "{job_id}", "nll": {nll}}}'.encode()


def answered() -> Batch:
    """A batch of two rows in one part."""
    return Batch(
        number=20_000,
        acknowledged=[Acknowledged("batches", BATCH, {}, BATCH)],
        record={"id": BATCH, "status": "succeeded"},
        manifest={"parts": [{"sha256": PART, "num_rows": 2}]},
        parts=[(PART, 2)],
        answers=ndjson(ANSWERS),
    )


def whole() -> Evidence:
    """A job that succeeded, one that was cancelled, and a batch, with everything that belongs to them."""
    orders = [
        Order(number=number, secret="", candidates=2, cancel_after=None, unwilling=False, cancelling=number == 1)
        for number in (0, 1)
    ]
    at = [f"2026-01-01T00:00:0{second}Z" for second in range(3)]
    for order, job_id, statuses in (
        (orders[0], JOB, ("queued", "running", "succeeded")),
        (orders[1], OTHER, ("queued", "cancelling", "cancelled")),
    ):
        history = [{"status": status, "at": time} for status, time in zip(statuses, at, strict=True)]
        order.record = {"id": job_id, "status": statuses[-1], "history": history}
        order.record |= {"created_at": at[0], "finished_at": at[2]}
        order.acknowledged = [Acknowledged("jobs", job_id, {}, job_id)]
    orders[0].report = report(JOB, 0.5)
    told = [{"type": f"job.{order.record['status']}", "data": {"id": order.record["id"]}} for order in orders]
    return Evidence(
        orders=orders,
        replayed=[(one, 200, one.record_id) for order in orders for one in order.acknowledged],
        jobs={row[0]: dict(zip(COLUMNS, row, strict=True)) for row in ROWS},
        calibrated=Counter([JOB]),
        owned={DIGEST: "jobs.report_sha256"},
        stored={DIGEST: True},
        delivered=[
            Delivered(0, "msg_0", told[0], answered=503),
            Delivered(0, "msg_0", told[0]),
            Delivered(1, "msg_1", told[1]),
        ],
        references={0: report(OTHER, 0.5)},
        batches=[answered()],
        events=defaultdict(list, {JOB: [("training", {"number": 1, "fold": fold}) for fold in (1, 2)]}),
        looks=[(JOB, DIGEST, 0), (OTHER, DIGEST, 1)],
        parts=defaultdict(list, {BATCH: [PART]}),
        answers=ndjson(ANSWERS),
        predicted=ANSWERS[:1],
        seen=Seen(workers_of=defaultdict(dict, {one: {"1": "heavy-1", "2": "heavy-2"} for one in (BATCH,)})),
    )


def test_a_run_that_kept_everything_is_accepted() -> None:
    """No line is broken, and each looked at something where there was something."""
    found = lines(whole())
    assert [line.broken for line in found] == [[]] * len(found)
    assert {line.promise.split()[0]: line.looked_at for line in found}["acknowledged"] == 2


def changed(one: object, **values: Any) -> None:
    """Other values of these attributes."""
    vars(one).update(values)


def replayed(found: Evidence, *what: Any) -> None:
    """Say what the first acknowledged request gives now."""
    found.replayed[0] = (found.replayed[0][0], *what)


BROKEN: dict[str, tuple[Callable[[Evidence], object], str]] = {
    "complaint": (lambda e: e.orders[0].complaints.append("422"), "customers served"),
    "failed": (lambda e: e.orders[0].record.update(status="failed"), "jobs succeeded"),
    "cancelled by nobody": (lambda e: changed(e.orders[1], cancelling=False), "jobs succeeded"),
    "ended twice": (lambda e: e.orders[0].record["history"].append(TWICE), "jobs in exactly one final state"),
    "row says otherwise": (lambda e: e.jobs[JOB].update(status="running"), "jobs in exactly one final state"),
    "ended before it began": (lambda e: e.orders[0].record.update(finished_at=EARLY), "times in order"),
    "two models": (lambda e: e.calibrated.update([JOB]), "jobs with exactly one calibrated model"),
    "model of a cancelled job": (lambda e: e.calibrated.update([OTHER]), "jobs with exactly one calibrated model"),
    "no report": (lambda e: e.jobs[JOB].update(report_sha256=None), "jobs with exactly one calibrated model"),
    "record gone": (lambda e: replayed(e, 404, JOB), "acknowledged requests"),
    "another record for the key": (lambda e: replayed(e, 200, OTHER), "acknowledged requests"),
    "one job too many": (lambda e: e.orders[1].acknowledged.clear(), "jobs that were ordered"),
    "never told": (lambda e: changed(e, delivered=e.delivered[2:]), "orders told of by webhook"),
    "only turned away": (lambda e: e.delivered.pop(1), "orders told of by webhook"),
    "two ids": (lambda e: e.delivered.append(replace(e.delivered[2], message_id="2")), "orders told of by webhook"),
    "a lie": (lambda e: e.delivered.append(Delivered(1, "msg_1", LIE)), "orders told of by webhook"),
    "orphan": (lambda e: e.orphans.append("1: python -m worker.inside.child"), "processes"),
    "outlived the end": (lambda e: e.left.append("1: python -m worker"), "processes"),
    "file of nobody": (lambda e: e.stored.update({"1" * 64: True}), "stored files"),
    "half written": (lambda e: e.strays.append("incoming/tmp1"), "stored files"),
    "file gone": (lambda e: e.stored.clear(), "named files"),
    "file changed": (lambda e: e.stored.update({DIGEST: False}), "named files"),
    "another report": (lambda e: changed(e.orders[0], report=report(JOB, 0.25)), "reports equal"),
    "batch failed": (lambda e: e.batches[0].record.update(status="failed"), "batches succeeded"),
    "row twice": (lambda e: changed(e.batches[0], answers=ndjson([*ANSWERS, ANSWERS[1]])), "batches with one answer"),
    "row otherwise": (lambda e: changed(e.batches[0], answers=ndjson(OTHERWISE)), "batches with one answer"),
    "predict door": (lambda e: changed(e, predicted=[{**ANSWERS[0], "label": "4"}]), "batches with one answer"),
    "manifest lies": (lambda e: e.batches[0].manifest["parts"][0].update(sha256=DIGEST), "manifests that agree"),
    "part of nobody": (lambda e: e.parts[BATCH].append(DIGEST), "manifests that agree"),
    "piece left": (lambda e: e.unfinished.append("piece shd_1 waiting"), "open work"),
    "told twice": (lambda e: e.events[JOB].append(e.events[JOB][0]), "events of trainings"),
    "fell back": (lambda e: e.seen.fallen.append(f"{JOB}: from 0.5 to 0.4"), "jobs and batches whose progress"),
    "one number twice": (lambda e: changed(e, looks=[e.looks[0], (OTHER, DIGEST, 0)]), "evaluations of test rows"),
    "never evaluated": (lambda e: e.looks.pop(0), "evaluations of test rows"),
    "predicted by one": (lambda e: e.seen.workers_of.pop(BATCH), "batches that several"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_promise_is_named(name: str) -> None:
    """Whatever is wrong, the line that promises the opposite says so."""
    (break_it, promise), found = BROKEN[name], whole()
    before = copy.deepcopy(found)
    break_it(found)
    assert found != before
    assert [line.promise for line in lines(found) if line.broken and line.promise.startswith(promise)]
