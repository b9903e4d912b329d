"""Promises about batches that many workers do together, and about jobs: their ledger, events and progress."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

from tests.chaos.evidence import Evidence
from tests.chaos.promise import Line
from tests.helpers import Json

#: By which fields of its data an event of a job is known.
_IDENTITY = {
    "training": ("number", "fold"),
    "epoch": ("number", "fold", "epoch"),
    "score": ("number", "fold"),
    "candidate": ("name",),
}
_ROUNDING = 1e-5


def every_batch_ends_well(evidence: Evidence) -> Line:
    broken = [
        f"batch {batch.number} is {batch.record.get('status')}: {batch.record.get('error')}"
        for batch in evidence.batches
        if batch.record.get("status") != "succeeded"
    ]
    return Line("batches succeeded", len(evidence.batches), broken)


def looks_are_numbered(evidence: Evidence) -> Line:
    """One evaluation for each job with a report, numbered from 0 for each file; cancelled ones may leave gaps."""
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for _, file, number in evidence.looks:
        numbers[file].append(number)
    looked, done = {job_id for job_id, _, _ in evidence.looks}, set(_with_report(evidence))
    given_back = len(evidence.jobs.keys() - done)
    broken = [
        f"{file}: {sorted(found)}"
        for file, found in numbers.items()
        if len(set(found)) < len(found) or max(found) >= len(found) + given_back
    ]
    broken += [f"{job_id} has a report and no evaluation" for job_id in sorted(done - looked)]
    return Line(
        "evaluations of test rows, numbered without doubles, or gaps but of cancelled jobs", len(evidence.looks), broken
    )


def _with_report(evidence: Evidence) -> list[str]:
    return [job_id for job_id, job in evidence.jobs.items() if job["report_sha256"] is not None]


def events_are_single(evidence: Evidence) -> Line:
    """Each event of a training comes once, however many workers and attempts have reported it."""
    broken = []
    for job_id, events in evidence.events.items():
        told = Counter(
            (kind, *(data.get(name) for name in _IDENTITY[kind])) for kind, data in events if kind in _IDENTITY
        )
        broken += [f"{job_id}: {count} times {event}" for event, count in told.items() if count > 1]
    return Line("events of trainings, epochs and scores, each once", sum(map(len, evidence.events.values())), broken)


def progress_never_falls(evidence: Evidence) -> Line:
    return Line("jobs and batches whose progress never falls", len(evidence.seen.reached), evidence.seen.fallen)


def batches_are_spread(evidence: Evidence) -> Line:
    """Else the run has proven nothing about them."""
    spread = evidence.seen.spread()
    return Line("batches that several workers have answered", len(spread), [] if spread else ["there was none"])


def nothing_is_unfinished(evidence: Evidence) -> Line:
    return Line("open work, pieces or checkpoints of what has ended", len(evidence.unfinished), evidence.unfinished)


def answers_are_whole(evidence: Evidence) -> Line:
    """Exactly one for each row, the same as undisturbed and at the predict door."""
    wanted = _rows(evidence.answers)
    broken = [
        f"row {number}: {row} undisturbed, {door} at the predict door"
        for number, (row, door) in enumerate(zip(wanted, evidence.predicted, strict=False))
        if row["label"] != door["label"] or abs(row["confidence"] - door["confidence"]) > _ROUNDING
    ]
    for batch in evidence.batches:
        rows = _rows(batch.answers)
        if [row.get("row") for row in rows] != list(range(len(wanted))):
            broken.append(f"batch {batch.number}: {len(rows)} rows, not rows 0 to {len(wanted) - 1}")
        elif others := [row["row"] for row, same in zip(rows, wanted, strict=True) if not _agree(row, same)]:
            broken.append(f"batch {batch.number}: rows {others[:5]} of {len(others)} are answered otherwise")
    return Line("batches with one answer for each row, as undisturbed", len(evidence.batches), broken)


def _agree(row: Json, other: Json) -> bool:
    """Equal but for the last bits, which depend on how many rows are computed at once."""
    numbers = [(row[name], other[name]) for name in ("confidence", "uncalibrated_confidence")]
    return row["label"] == other["label"] and all(abs(one - two) <= _ROUNDING for one, two in numbers)


def _rows(answers: bytes | None) -> list[Json]:
    return [json.loads(line) for line in (answers or b"").splitlines()]


def manifests_are_true(evidence: Evidence) -> Line:
    """The manifest has the true digest and rows of every part, by the customer's file and by the registry."""
    broken = []
    for batch in evidence.batches:
        promised = [(part["sha256"], part["num_rows"]) for part in batch.manifest.get("parts", [])]
        stored = evidence.parts.get(str(batch.record_id)) or [digest for digest, _ in promised]
        if not promised or promised != batch.parts or [digest for digest, _ in promised] != stored:
            broken.append(f"batch {batch.number}: {promised} in the manifest, {batch.parts} sent, {stored} stored")
    return Line("manifests that agree with their parts", sum(len(one.parts) for one in evidence.batches), broken)
