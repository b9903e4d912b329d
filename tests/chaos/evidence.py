"""Evidence after a run: records by HTTP, rows by SQL, files, processes, messages; it judges nothing."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.chaos.customers import Caller
from tests.chaos.orders import Acknowledged, Batch, Errand, Order
from tests.chaos.receiver import Delivered
from tests.chaos.site import Site
from tests.chaos.watch import Seen
from tests.helpers import Json

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Remembers what was judged after its file is gone; owns nothing.
_NO_OWNER = {("looks", "dataset_sha256")}
_TIMES = ("created_at", "started_at", "finished_at")
_IDS = re.compile(rb"(job|mdl|ds)_[0-9a-z]{26}")
#: When a job was ordered, in its report.
_ORDERED = re.compile(rb'("created_at": )"[^"]*"')

_PARTS = (
    "SELECT parent_id, sha256 FROM pieces WHERE parent_id LIKE 'bat\\_%' AND status = 'done' ORDER BY parent_id, place"
)
#: Rows that must be gone when all has ended; the parts of a batch stay with it.
_UNFINISHED = (
    "SELECT 'work', record_id, state FROM work WHERE state <> 'done'"
    " UNION ALL SELECT 'checkpoint', job_id, name FROM checkpoints"
    " UNION ALL SELECT 'piece', id, status FROM pieces p"
    " WHERE status <> 'done' OR NOT EXISTS (SELECT 1 FROM batches b WHERE b.id = parent_id AND b.status = 'succeeded')"
)


@dataclass
class Evidence:
    """Everything the verdict rests on.

    Attributes:
        replayed: for every acknowledged request, what is there now and what the same request with the same key gives.
        jobs, calibrated: rows of jobs by id; how many calibrated models name a job.
        owned: digests that some row names. stored: those that lie in the folder, and whether the content is theirs.
        strays: other files in the folder.
        orphans: processes of the site without a supervisor. left: those that live after everything was stopped.
        events: of every job, in order: what happened and what is said of it.
        looks: for every evaluation of test rows the job, the file, and how many came before.
        unfinished: work, pieces and checkpoints of what has ended.
        parts: of every batch that succeeded the digests of its pieces, in order.
        references, answers: what the same orders and batches gave in an undisturbed site.
        predicted: what the predict door answered there for the first rows.
        seen: what was seen while it ran.
    """

    orders: list[Order] = field(default_factory=list)
    visits: list[Errand] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    replayed: list[tuple[Acknowledged, int, str]] = field(default_factory=list)
    jobs: dict[str, Json] = field(default_factory=dict)
    calibrated: Counter[str] = field(default_factory=Counter)
    owned: dict[str, str] = field(default_factory=dict)
    stored: dict[str, bool] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    delivered: list[Delivered] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    events: defaultdict[str, list[tuple[str, Json]]] = field(default_factory=lambda: defaultdict(list))
    looks: list[tuple[str, str, int]] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    parts: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    references: dict[int, bytes] = field(default_factory=dict)
    answers: bytes | None = None
    predicted: list[Json] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)


def replay(caller: Caller, promised: list[Acknowledged]) -> list[tuple[Acknowledged, int, str]]:
    """Look for every record that was promised, and send its request once more."""
    found = []
    for one in promised:
        status = caller.ask("GET", f"/v1/{one.kind}/{one.record_id}").status_code
        found.append((one, status, caller.create(one.kind, one.key, **one.request).record_id))
    return found


def records_of(caller: Caller, customers: Sequence[Errand]) -> None:
    """Read every job and batch anew."""
    for customer in customers:
        for one in customer.acknowledged:
            if one.record_id == customer.record_id:
                customer.record = caller.get(f"/v1/{one.kind}/{one.record_id}")


def rows_of(site: Site, evidence: Evidence) -> None:
    """Read what only the database tells."""
    with site.connect() as connection:
        jobs = connection.execute("SELECT id, status, report_sha256, calibrated_model_id, serves, verdict FROM jobs")
        names = [column.name for column in jobs.description or ()]
        evidence.jobs = {row[0]: dict(zip(names, row, strict=True)) for row in jobs}
        models = connection.execute("SELECT job_id FROM models WHERE origin = 'calibrated'")
        evidence.calibrated = Counter(row[0] for row in models)
        evidence.looks = connection.execute("SELECT job_id, dataset_sha256, number FROM looks").fetchall()
        evidence.events.clear()
        for job_id, kind, data in connection.execute("SELECT job_id, type, data FROM events ORDER BY job_id, number"):
            evidence.events[job_id].append((kind, data))
        evidence.parts.clear()
        for batch_id, digest in connection.execute(_PARTS):
            evidence.parts[batch_id].append(digest)
        evidence.unfinished = [" ".join(map(str, row)) for row in connection.execute(_UNFINISHED)]
        evidence.owned = _owned(connection)


def _owned(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Every digest that a row names, whatever the table, and where."""
    columns = connection.execute(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND column_name LIKE '%sha256'"
    ).fetchall()
    owned = {}
    for table, column in sorted(set(columns) - _NO_OWNER):
        query = sql.SQL("SELECT {0} FROM {1} WHERE {0} IS NOT NULL").format(
            sql.Identifier(column), sql.Identifier(table)
        )
        owned.update({row[0]: f"{table}.{column}" for row in connection.execute(query)})
    return owned


def files_of(site: Site, evidence: Evidence) -> None:
    """Read every stored file."""
    evidence.stored, evidence.strays = {}, []
    for path in sorted(site.artifacts.rglob("*")):
        with suppress(FileNotFoundError):  # the sweeper is at work
            if path.is_file() and _DIGEST.fullmatch(path.name):
                evidence.stored[path.name] = hashlib.sha256(path.read_bytes()).hexdigest() == path.name
            elif path.is_file():
                evidence.strays.append(str(path.relative_to(site.artifacts)))


def processes_of(folder: Path) -> dict[int, str]:
    """All processes that were started with this folder: by their command, their environment or where they work."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                told = command
                with suppress(OSError):  # a confined process shows neither to others
                    told += (entry / "environ").read_bytes() + os.readlink(entry / "cwd").encode()
                if os.fsencode(f"{folder}/") in told and command:
                    found[int(entry.name)] = command.decode(errors="replace").strip()
    return found


def orphans_of(site: Site) -> list[str]:
    """Processes of this site that are neither supervised nor below one that is."""
    expected = {part.pid for part in site.parts}.union(*(part.below() for part in site.parts))
    return [f"{pid}: {command}" for pid, command in processes_of(site.folder).items() if pid not in expected]


def without_ids(report: bytes) -> bytes:
    """A report with the ids of its own records, and when it was ordered, blotted out: they are new everywhere."""
    return _ORDERED.sub(rb"\1null", _IDS.sub(rb"\1_", report))
