"""The verdict over a run: it accepts one in which everything was kept, and names each promise that was broken."""

from __future__ import annotations

import copy
import json
from collections import Counter, defaultdict
from collections.abc import Callable
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


def ndjson(rows: list[dict[str, Any]]) -> bytes:
    """Answers as a customer fetches them."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def answered() -> Batch:
    """A batch of two rows in one part."""
    return Batch(
        number=20_000,
        acknowledged=[Acknowledged("predictions", BATCH, {}, BATCH)],
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
        order.record = {
            "id": job_id,
            "status": statuses[-1],
            "history": history,
            "created_at": at[0],
            "finished_at": at[2],
        }
        order.acknowledged = [Acknowledged("jobs", job_id, {}, job_id)]
    orders[0].report = f'{{"job": "{JOB}", "nll": 0.5}}'.encode()
    rows: dict[str, dict[str, Any]] = {
        JOB: {
            "id": JOB,
            "status": "succeeded",
            "verdict": "trained",
            "report_sha256": DIGEST,
            "calibrated_model_id": "m",
        },
        OTHER: {
            "id": OTHER,
            "status": "cancelled",
            "verdict": None,
            "report_sha256": None,
            "calibrated_model_id": None,
        },
    }
    told = [{"type": f"job.{order.record['status']}", "data": {"id": order.record["id"]}} for order in orders]
    return Evidence(
        orders=orders,
        replayed=[(one, 200, one.record_id) for order in orders for one in order.acknowledged],
        jobs=rows,
        calibrated=Counter([JOB]),
        owned={DIGEST: "jobs.report_sha256"},
        stored={DIGEST: True},
        delivered=[
            Delivered(0, "msg_0", told[0], answered=503),
            Delivered(0, "msg_0", told[0]),
            Delivered(1, "msg_1", told[1]),
        ],
        references={0: f'{{"job": "{OTHER}", "nll": 0.5}}'.encode()},
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


def failed(found: Evidence) -> None:
    found.orders[0].record["status"] = "failed"


def cancelled_by_nobody(found: Evidence) -> None:
    found.orders[1].cancelling = False


def ended_twice(found: Evidence) -> None:
    found.orders[0].record["history"].append({"status": "succeeded", "at": "2026-01-01T00:00:03Z"})


def row_says_otherwise(found: Evidence) -> None:
    found.jobs[JOB]["status"] = "running"


def ended_before_it_began(found: Evidence) -> None:
    found.orders[0].record["finished_at"] = "2025-12-31T23:50:00Z"


def two_models(found: Evidence) -> None:
    found.calibrated[JOB] += 1


def model_of_a_cancelled_job(found: Evidence) -> None:
    found.calibrated[OTHER] += 1


def no_report(found: Evidence) -> None:
    found.jobs[JOB]["report_sha256"] = None


def record_gone(found: Evidence) -> None:
    found.replayed[0] = (found.replayed[0][0], 404, JOB)


def another_record_for_the_key(found: Evidence) -> None:
    found.replayed[0] = (found.replayed[0][0], 200, OTHER)


def one_job_too_many(found: Evidence) -> None:
    found.orders[1].acknowledged.clear()


def never_told(found: Evidence) -> None:
    del found.delivered[:2]


def only_turned_away(found: Evidence) -> None:
    del found.delivered[1]


def told_under_two_ids(found: Evidence) -> None:
    found.delivered.append(Delivered(1, "msg_2", found.delivered[2].payload))


def told_a_lie(found: Evidence) -> None:
    found.delivered.append(Delivered(1, "msg_1", {"type": "job.succeeded", "data": {"id": OTHER}}))


def orphan(found: Evidence) -> None:
    found.orphans.append("1: python -m worker.inside.child")


def outlived_the_end(found: Evidence) -> None:
    found.left.append("1: python -m worker")


def file_of_nobody(found: Evidence) -> None:
    found.stored["1" * 64] = True


def half_written(found: Evidence) -> None:
    found.strays.append("incoming/tmp1")


def file_gone(found: Evidence) -> None:
    found.stored.clear()


def file_changed(found: Evidence) -> None:
    found.stored[DIGEST] = False


def another_report(found: Evidence) -> None:
    found.orders[0].report = f'{{"job": "{JOB}", "nll": 0.25}}'.encode()


def batch_failed(found: Evidence) -> None:
    found.batches[0].record["status"] = "failed"


def row_twice(found: Evidence) -> None:
    found.batches[0].answers = ndjson([*ANSWERS, ANSWERS[1]])


def row_answered_otherwise(found: Evidence) -> None:
    found.batches[0].answers = ndjson([ANSWERS[0], {**ANSWERS[1], "confidence": 0.8}])


def predict_door_says_otherwise(found: Evidence) -> None:
    found.predicted[0] = {**ANSWERS[0], "label": "4"}


def manifest_lies(found: Evidence) -> None:
    found.batches[0].manifest["parts"][0]["sha256"] = DIGEST


def part_of_nobody(found: Evidence) -> None:
    found.parts[BATCH].append(DIGEST)


def piece_left(found: Evidence) -> None:
    found.unfinished.append("piece shd_1 waiting")


def told_twice(found: Evidence) -> None:
    found.events[JOB].append(found.events[JOB][0])


def fell_back(found: Evidence) -> None:
    found.seen.fallen.append(f"{JOB}: from 0.5 to 0.4")


def one_number_twice(found: Evidence) -> None:
    found.looks[1] = (OTHER, DIGEST, 0)


def never_evaluated(found: Evidence) -> None:
    del found.looks[0]


def predicted_by_one(found: Evidence) -> None:
    del found.seen.workers_of[BATCH]


def complaint(found: Evidence) -> None:
    found.orders[0].complaints.append("422")


@pytest.mark.parametrize(
    ("break_it", "promise"),
    [
        (complaint, "customers served"),
        (failed, "jobs succeeded"),
        (cancelled_by_nobody, "jobs succeeded"),
        (ended_twice, "jobs in exactly one final state"),
        (row_says_otherwise, "jobs in exactly one final state"),
        (ended_before_it_began, "times in order"),
        (two_models, "jobs with exactly one calibrated model"),
        (model_of_a_cancelled_job, "jobs with exactly one calibrated model"),
        (no_report, "jobs with exactly one calibrated model"),
        (record_gone, "acknowledged requests"),
        (another_record_for_the_key, "acknowledged requests"),
        (one_job_too_many, "jobs that were ordered"),
        (never_told, "orders told of by webhook"),
        (only_turned_away, "orders told of by webhook"),
        (told_under_two_ids, "orders told of by webhook"),
        (told_a_lie, "orders told of by webhook"),
        (orphan, "processes"),
        (outlived_the_end, "processes"),
        (file_of_nobody, "stored files"),
        (half_written, "stored files"),
        (file_gone, "named files"),
        (file_changed, "named files"),
        (another_report, "reports equal"),
        (batch_failed, "batches succeeded"),
        (row_twice, "batches with one answer"),
        (row_answered_otherwise, "batches with one answer"),
        (predict_door_says_otherwise, "batches with one answer"),
        (manifest_lies, "manifests that agree"),
        (part_of_nobody, "manifests that agree"),
        (piece_left, "open work"),
        (told_twice, "events of trainings"),
        (fell_back, "jobs and batches whose progress"),
        (one_number_twice, "evaluations of test rows"),
        (never_evaluated, "evaluations of test rows"),
        (predicted_by_one, "batches that several"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_each_broken_promise_is_named(break_it: Callable[[Evidence], None], promise: str) -> None:
    """Whatever is wrong, the line that promises the opposite says so."""
    found = whole()
    before = copy.deepcopy(found)
    break_it(found)
    assert found != before
    assert [line.promise for line in lines(found) if line.broken and line.promise.startswith(promise)]
