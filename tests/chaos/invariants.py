"""Six things that are true after a run, whatever was killed: each says what breaks it."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.chaos.customers import COMPARED, Caller, Customer, answers_of, fetch, same_answer
from tests.chaos.kills import command_of
from tests.chaos.receiver import Receiver
from tests.chaos.site import Site

_DIGEST = re.compile(r"[0-9a-f]{64}")
_IDS = re.compile(r"(job|mdl|ds)_[0-9a-z]{26}")
#: By which fields of its data an event of a training is known.
_TRAINING = {
    "training": ("number", "fold"),
    "epoch": ("number", "fold", "epoch"),
    "score": ("number", "fold"),
    "candidate": ("name",),
}
_RESULTS = (
    "SELECT j.id, j.status = 'succeeded', (j.report_sha256 IS NOT NULL)::int, (j.calibrated_model_id IS NOT NULL)::int,"
    " j.verdict IN ('trained', 'post_hoc'), (SELECT count(*) FROM models WHERE job_id = j.id AND origin = 'calibrated')"
    " FROM jobs j"
)
_EVENTS = "SELECT job_id, type, data FROM events"
#: Rows that must be gone when all has ended; the parts of a batch stay with it.
_UNFINISHED = (
    "SELECT 'work', record_id, state FROM work WHERE state <> 'done'"
    " UNION ALL SELECT 'checkpoint', job_id, name FROM checkpoints"
    " UNION ALL SELECT 'piece', id, status FROM pieces p"
    " WHERE status <> 'done' OR NOT EXISTS (SELECT 1 FROM batches b WHERE b.id = parent_id AND b.status = 'succeeded')"
)
#: Columns of digests, but for the one that remembers what was judged after its file is gone.
_COLUMNS = (
    "SELECT table_name, column_name FROM information_schema.columns"
    " WHERE table_schema = 'public' AND column_name LIKE '%sha256' AND table_name <> 'looks'"
)


@dataclass
class Run:
    """A run: where it was, who came, where their messages went, and what the first customers got undisturbed."""

    site: Site
    customers: Sequence[Customer]
    receiver: Receiver
    undisturbed: Sequence[Customer]

    def caller(self) -> Caller:
        """A way to the service."""
        return Caller(self.site.urls, Counter(), seconds=120)


def _nothing_is_lost_or_doubled(run: Run) -> list[str]:
    """Each request that was acknowledged is there by its id and by its key, and nothing else is."""
    found, caller = [], run.caller()
    for one in (one for customer in run.customers for one in customer.promised):
        if (status := caller.ask("GET", f"/v1/{one.kind}/{one.record_id}").status_code) != 200:
            found.append(f"{one.record_id} was acknowledged, and is answered with {status}")
        elif (again := caller.create(one.kind, one.key, **one.request).record_id) != one.record_id:
            found.append(f"{one.key} gave {one.record_id}, and now {again}")
    caller.close()
    promised = {one.record_id for customer in run.customers for one in customer.promised}
    there = {row[0] for row in run.site.rows("SELECT id FROM jobs UNION ALL SELECT id FROM batches")}
    return [*found, *(f"{one} was ordered by nobody" for one in sorted(there - promised))]


def _each_ends_once(run: Run) -> list[str]:
    """Each order has one end, and the right one; times are in order; a job has one model and one report, or none."""
    found = [complaint for customer in run.customers for complaint in customer.complaints]
    for customer in run.customers:
        record = customer.record
        history = [change["status"] for change in record.get("history", [])]
        finals = [status for status in history if status in ("succeeded", "failed", "cancelled")]
        right = ("succeeded", "cancelled") if customer.cancels else ("succeeded",)
        if record.get("status") not in right or (history and (finals != history[-1:] or finals != [record["status"]])):
            found.append(f"customer {customer.number}: {record.get('status')} {record.get('error')}, history {history}")
        told = [record.get(name) for name in ("created_at", "started_at", "finished_at")]
        for times in (told, [change["at"] for change in record.get("history", [])]):
            known = [datetime.fromisoformat(time) for time in times if time is not None]
            found += [f"customer {customer.number}: times {times}"] if known != sorted(known) else []
    for job_id, succeeded, reports, named, gains, made in run.site.rows(_RESULTS):
        if (reports, named, made) != (succeeded, succeeded, succeeded and gains):
            found.append(f"{job_id}: {reports} reports, names {named} models, {made} made of it")
    events: Counter[tuple[str, ...]] = Counter()
    for job_id, kind, data in run.site.rows(_EVENTS):
        if kind in _TRAINING:
            events[job_id, kind, *(str(data.get(name)) for name in _TRAINING[kind])] += 1
    return [*found, *(f"told {count} times: {event}" for event, count in events.items() if count > 1)]


def _results_are_the_same(run: Run) -> list[str]:
    """Reports and answers are those of a run in which nothing was killed; all batches have one answer for each row."""
    found, caller = [], run.caller()
    for customer in (one for one in run.customers if one.promised):
        try:
            fetch(customer, caller)
        except AssertionError as error:
            found.append(f"customer {customer.number}: {error}")
    caller.close()
    undisturbed = {one.number if one.number < COMPARED else one.kind: one.result for one in run.undisturbed}
    for customer in run.customers:
        if customer.number < COMPARED:
            found += _changes(customer, undisturbed[customer.number])
        elif customer.kind == "batches":
            rows, wanted = answers_of(customer.result), answers_of(undisturbed["batches"])
            if [row["row"] for row in rows] != list(range(len(wanted))):
                found.append(f"customer {customer.number}: {len(rows)} rows, and {len(wanted)} undisturbed")
            elif others := [row for row, same in zip(rows, wanted, strict=True) if not same_answer(row, same)]:
                found.append(f"customer {customer.number}: {len(others)} rows otherwise, such as {others[0]}")
    return found


def _changes(customer: Customer, wanted: bytes) -> list[str]:
    """Where a report differs, but for the ids of records and when it was ordered: they are new everywhere."""
    texts = []
    for report in (wanted, customer.result):
        lines = _IDS.sub("_", json.dumps(json.loads(report or b"{}"), indent=1)).splitlines()
        texts.append([line for line in lines if '"created_at"' not in line])
    changed = [line for line in difflib.unified_diff(*texts, lineterm="", n=0) if line[0] in "+-"][2:]
    return [f"customer {customer.number}: {'; '.join(changed[:12])}"] if changed else []


def _each_is_told(run: Run) -> list[str]:
    """A job's end comes as a message, signed and true, under one id however often it comes."""
    found = [f"badly signed, for customer {one.customer}" for one in run.receiver.messages if one.payload is None]
    for customer in (one for one in run.customers if one.kind == "jobs"):
        mine = [one for one in run.receiver.messages if one.customer == customer.number]
        told = {(one.payload["type"], one.payload["data"]["id"]) for one in mine if one.payload is not None}
        wanted = {(f"job.{customer.record.get('status')}", customer.record.get("id"))}
        if told != wanted or len({one.message_id for one in mine}) != 1:
            found.append(f"customer {customer.number}: {mine}, wanted {wanted}")
    return found


def _nothing_is_left_over(run: Run) -> list[str]:
    """Each stored file is named by a row and has the content of its name; no work, piece or checkpoint is open."""
    found = [f"open: {row}" for row in run.site.rows(_UNFINISHED)]
    owned: dict[str, str] = {}
    for table, column in run.site.rows(_COLUMNS):
        owned |= {row[0]: table for row in run.site.rows(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL")}
    stored = set()
    for path in sorted(run.site.artifacts.rglob("*")):
        with suppress(FileNotFoundError):  # the sweeper is at work
            if path.is_file() and path.name not in owned:
                found.append(f"of nobody: {path.relative_to(run.site.artifacts)}")
            elif path.is_file() and _DIGEST.fullmatch(path.name):
                stored.add(path.name)
                if hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
                    found.append(f"the content of {path.name} is another")
    return [
        *found,
        *(f"{owned[digest]} names {digest}, which is not there" for digest in sorted(owned.keys() - stored)),
    ]


def _no_process_is_left(run: Run) -> list[str]:
    """Each process of the site is below one that is supervised."""
    expected = {part.pid for part in run.site.parts}.union(*(part.below() for part in run.site.parts))
    return [f"{pid}: {command}" for pid, command in processes_of(run.site.folder).items() if pid not in expected]


def processes_of(folder: Path) -> dict[int, str]:
    """All processes that were started with this folder: by their command, their environment or where they work."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            told = command = command_of(int(entry.name))
            with suppress(OSError):  # a confined process shows neither to others
                told += (entry / "environ").read_text(errors="replace") + os.readlink(entry / "cwd")
            if f"{folder}/" in told and command:
                found[int(entry.name)] = command
    return found


INVARIANTS: dict[str, Callable[[Run], list[str]]] = {
    "what was acknowledged is there, once": _nothing_is_lost_or_doubled,
    "each order ends once, and well": _each_ends_once,
    "results are those of an undisturbed run": _results_are_the_same,
    "each customer is told the truth, signed": _each_is_told,
    "no file, row or piece is left over or missing": _nothing_is_left_over,
    "no process outlives its parent": _no_process_is_left,
}
