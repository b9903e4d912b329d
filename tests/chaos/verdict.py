"""The promises that hold at the end of a run: one line of the table for each, with all that breaks it."""

from __future__ import annotations

import difflib
import json
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from typing import Any

from tests.chaos import spread_verdict
from tests.chaos.evidence import Evidence, without_ids
from tests.chaos.orders import Order
from tests.chaos.promise import Line

FINAL = ("succeeded", "failed", "cancelled")
_TRAINED = ("trained", "post_hoc")


def lines(evidence: Evidence) -> list[Line]:
    """Every promise, in the order of the table."""
    return [check(evidence) for check in _CHECKS]


def customers_are_served(evidence: Evidence) -> Line:
    """No answer but one that a customer can live with."""
    customers = [*evidence.orders, *evidence.visits, *evidence.batches]
    broken = [complaint for order in customers for complaint in order.complaints]
    return Line("customers served, whatever happened meanwhile", len(customers), broken)


def every_job_ends_well(evidence: Evidence) -> Line:
    broken = []
    for order in evidence.orders:
        status = order.record.get("status")
        wanted = ("succeeded", "cancelled") if order.cancelling else ("succeeded",)
        if status not in wanted:
            broken.append(f"order {order.number}: {_named(order)} is {status}: {order.record.get('error')}")
    return Line("jobs succeeded (or were cancelled, where that was asked for)", len(evidence.orders), broken)


def _one_final_state(evidence: Evidence) -> Line:
    broken = []
    for order in evidence.orders:
        history = [change["status"] for change in order.record.get("history", [])]
        finals = [status for status in history if status in FINAL]
        row = evidence.jobs.get(order.record.get("id", ""), {})
        if len(finals) != 1 or history[-1] != finals[0] or not finals[0] == order.record["status"] == row.get("status"):
            broken.append(f"{_named(order)}: {order.record.get('status')}, row {row.get('status')}, history {history}")
    return Line("jobs in exactly one final state, the last of their history", len(evidence.orders), broken)


def _times_are_in_order(evidence: Evidence) -> Line:
    """By any writer, on any clock."""
    broken = []
    for order in evidence.orders:
        job = order.record
        times = [job.get(name) for name in ("created_at", "started_at", "finished_at")]
        for told in (times, [change["at"] for change in job.get("history", [])]):
            known = [datetime.fromisoformat(time) for time in told if time is not None]
            if known != sorted(known):
                broken.append(f"{_named(order)}: {told}")
    return Line("times in order, whatever the workers' clocks", len(evidence.orders), broken)


def _one_result(evidence: Evidence) -> Line:
    """A model and a report where there was an end with one; none where there was not."""
    broken = []
    for job in evidence.jobs.values():
        made, done = evidence.calibrated[job["id"]], job["status"] == "succeeded"
        wanted = int(done and job["verdict"] in _TRAINED)
        if (
            made != wanted
            or (job["report_sha256"] is not None) != done
            or (job["calibrated_model_id"] is not None) != done
        ):
            broken.append(f"{job}: {made} calibrated models, {wanted} wanted")
    broken += [f"{made} models of {job_id}, which is no job" for job_id, made in evidence.calibrated.items()
               if job_id not in evidence.jobs]  # fmt: skip
    return Line("jobs with exactly one calibrated model and one report, or none", len(evidence.jobs), broken)


def _nothing_lost(evidence: Evidence) -> Line:
    broken = []
    for promised, status, again in evidence.replayed:
        if status != 200:
            broken.append(f"{promised.record_id} was acknowledged, and is answered with {status}")
        if again != promised.record_id:
            broken.append(f"{promised.key} gave {promised.record_id}, and now {again}")
    return Line("acknowledged requests found again, by id and by key", len(evidence.replayed), broken)


def _nothing_doubled(evidence: Evidence) -> Line:
    promised = {one.record_id for order in evidence.orders for one in order.acknowledged if one.kind == "jobs"}
    extra = sorted(set(evidence.jobs) - promised)
    return Line("jobs that were ordered, each once", len(evidence.jobs), [f"not ordered: {one}" for one in extra])


def _webhooks_arrive(evidence: Evidence) -> Line:
    """At least once, rightly signed, telling the truth, under the same id each time."""
    by_order: defaultdict[int, list[Any]] = defaultdict(list)
    for one in evidence.delivered:
        by_order[one.order].append(one)
    broken = []
    for order in evidence.orders:
        came, job = by_order[order.number], order.record
        good = [one for one in came if one.answered == 204]
        if not good:
            broken.append(f"{_named(order)}: {len(came)} messages, none good: {sorted({one.refusal for one in came})}")
        if len({one.message_id for one in came}) > 1:
            broken.append(f"{_named(order)}: several ids {sorted({one.message_id for one in came})}")
        for payload in (one.payload for one in came if one.payload is not None):
            told = (payload.get("type"), payload.get("data", {}).get("id"))
            if told != (f"job.{job.get('status')}", job.get("id")):
                broken.append(f"{_named(order)} is {job.get('status')}, and the message told of {told}")
    return Line("orders told of by webhook, signed, under one id", len(evidence.orders), broken)


def _no_orphan_process(evidence: Evidence) -> Line:
    broken = [f"unsupervised: {one}" for one in evidence.orphans]
    broken += [f"lives after the end: {one}" for one in evidence.left]
    return Line("processes without a supervisor, or that outlive the end", len(broken), broken)


def _files_have_owners(evidence: Evidence) -> Line:
    broken = [f"without an owner: {digest}" for digest in sorted(set(evidence.stored) - set(evidence.owned))]
    broken += [f"half-written: {stray}" for stray in evidence.strays]
    return Line("stored files that a row names", len(evidence.stored), broken)


def _owners_have_files(evidence: Evidence) -> Line:
    missing = sorted(set(evidence.owned) - set(evidence.stored))
    broken = [f"{evidence.owned[digest]} names {digest}, which is not there" for digest in missing]
    broken += [f"the content of {digest} is another" for digest, right in evidence.stored.items() if not right]
    return Line("named files that are there, with the content of their name", len(evidence.owned), broken)


def _reports_are_the_same(evidence: Evidence) -> Line:
    """Byte for byte, but for the ids of the records."""
    ours = {order.number: order.report for order in evidence.orders if order.number in evidence.references}
    broken = []
    for number, wanted in evidence.references.items():
        found = ours.get(number)
        if found is None or without_ids(found) != without_ids(wanted):
            broken.append(f"order {number}: {_difference(wanted, found)}")
    return Line("reports equal to those of undisturbed runs, byte for byte", len(evidence.references), broken)


def _difference(wanted: bytes, found: bytes | None) -> str:
    if found is None:
        return "there is no report"
    texts = [json.dumps(json.loads(without_ids(one)), indent=1).splitlines() for one in (wanted, found)]
    compared = difflib.unified_diff(texts[0], texts[1], "undisturbed", "here", lineterm="", n=0)
    changed = [line for line in compared if not line.startswith("@@")]
    return "; ".join(changed[:12]) or "the same content, written differently"


def _named(order: Order) -> str:
    return str(order.record.get("id", f"order {order.number} without a job"))


_CHECKS: tuple[Callable[[Evidence], Line], ...] = (
    customers_are_served,
    every_job_ends_well,
    spread_verdict.every_batch_ends_well,
    _one_final_state,
    _times_are_in_order,
    _one_result,
    _nothing_lost,
    _nothing_doubled,
    spread_verdict.looks_are_numbered,
    spread_verdict.events_are_single,
    spread_verdict.progress_never_falls,
    spread_verdict.batches_are_spread,
    spread_verdict.answers_are_whole,
    spread_verdict.manifests_are_true,
    spread_verdict.nothing_is_unfinished,
    _webhooks_arrive,
    _no_orphan_process,
    _files_have_owners,
    _owners_have_files,
    _reports_are_the_same,
)
