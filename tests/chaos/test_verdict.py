"""The verdict over a run: it accepts one in which everything was kept, and names each promise that was broken."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.evidence import Evidence
from tests.chaos.orders import Acknowledged, Order
from tests.chaos.receiver import Delivered
from tests.chaos.verdict import lines

JOB, OTHER = f"job_{'a' * 26}", f"job_{'b' * 26}"
DIGEST = "0" * 64


def whole() -> Evidence:
    """One job that succeeded and one that was cancelled, with everything that belongs to them."""
    orders = [
        Order(number, secret="", dataset=None, cancel_after=None, unwilling=False, cancelling=number == 1)
        for number in (0, 1)
    ]
    at = [f"2026-01-01T00:00:0{second}Z" for second in range(3)]
    for order, job_id, statuses in (
        (orders[0], JOB, ("queued", "running", "succeeded")),
        (orders[1], OTHER, ("queued", "cancelling", "cancelled")),
    ):
        history = [{"status": status, "at": time} for status, time in zip(statuses, at, strict=True)]
        order.job = {
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
    told = [{"type": f"job.{order.job['status']}", "data": {"id": order.job["id"]}} for order in orders]
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
    )


def test_a_run_that_kept_everything_is_accepted() -> None:
    """No line is broken, and each looked at something where there was something."""
    found = lines(whole())
    assert [line.broken for line in found] == [[]] * len(found)
    assert {line.promise.split()[0]: line.looked_at for line in found}["acknowledged"] == 2


def failed(found: Evidence) -> None:
    found.orders[0].job["status"] = "failed"


def cancelled_by_nobody(found: Evidence) -> None:
    found.orders[1].cancelling = False


def ended_twice(found: Evidence) -> None:
    found.orders[0].job["history"].append({"status": "succeeded", "at": "2026-01-01T00:00:03Z"})


def row_says_otherwise(found: Evidence) -> None:
    found.jobs[JOB]["status"] = "running"


def ended_before_it_began(found: Evidence) -> None:
    found.orders[0].job["finished_at"] = "2025-12-31T23:50:00Z"


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
