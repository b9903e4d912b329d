"""Garbage collection and retention: removal of files that no record names, and of records that have expired.

A process may be killed between storing a file and committing the record that names it, and a deletion may commit while
the storage is away. The storage's own clock decides a file's age, and each file is checked again inside the write
transaction that removes it: no other writer can name it in between.

Expired jobs and batches go as with DELETE: a job with its report, events and messages, a batch with its results. What
still serves stays: a job's calibrated model and the names that it is published under. So do the evaluation ledger and
the digests of rows that models were trained on, or else deleting a job would make its test rows look unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from service.registry.artifacts import StoredFile
from service.registry.errors import NotFound
from service.registry.registry import Registry, UnitOfWork
from service.registry.repositories.jobs import Batches, Jobs

#: Files checked in one call, and in one reading transaction.
_MAX_FILES = 1_000
_AT_ONCE = 100
#: Records deleted in one call of each kind, each in a transaction of its own: other writers come in between.
_MAX_RECORDS = 500


@dataclass(frozen=True, slots=True)
class CollectedGarbage:
    """The result of one call.

    Attributes:
        looked_at: stored files listed.
        orphans: files removed that no record named, of `orphan_bytes` together.
        left_overs: files removed that never got a name, of `left_over_bytes` together.
        next: where the next call goes on; None after the last file.
    """

    looked_at: int
    orphans: int
    orphan_bytes: int
    left_overs: int
    left_over_bytes: int
    next: str | None


def collect_garbage(
    registry: Registry, *, older_than: timedelta, after: str | None = None, most_files: int = _MAX_FILES
) -> CollectedGarbage:
    """Remove what no record names and nothing has changed for `older_than`, among the next `most_files` from `after`.

    `older_than` must be longer than any upload takes from its last byte to its record. Several processes may collect
    at once, and each host should: what is half-written lies on its own disk. Raises Unavailable where the database or
    the storage cannot be reached; what was removed until then stays removed.
    """
    store = registry.artifacts
    left_overs = store.clear_left_overs(older_than=older_than) if after is None else []
    before = store.clock() - older_than
    files = store.listed(after=after or "", limit=most_files)
    removed = []
    for file in _unnamed(registry, [file for file in files if file.changed < before]):
        with registry.write() as unit:
            if not unit.datasets.is_referenced(file.digest) and store.expire(file.digest, before=before):
                removed.append(file.size)
    return CollectedGarbage(
        looked_at=len(files),
        orphans=len(removed),
        orphan_bytes=sum(removed),
        left_overs=len(left_overs),
        left_over_bytes=sum(left_overs),
        next=files[-1].digest if len(files) == most_files else None,
    )


def _unnamed(registry: Registry, files: Sequence[StoredFile]) -> list[StoredFile]:
    """Files that no record seems to name: nearly all files are named, and need no write transaction."""
    unnamed = []
    for start in range(0, len(files), _AT_ONCE):
        some = files[start : start + _AT_ONCE]
        with registry.read() as unit:
            named = unit.datasets.referenced([file.digest for file in some])
        unnamed += [file for file in some if file.digest not in named]
    return unnamed


def delete_expired(
    registry: Registry, *, jobs_days: float | None, results_days: float | None, most: int = _MAX_RECORDS
) -> Iterator[str]:
    """Delete what has expired by the database's clock, at most so many of each kind; yields the ids as they are gone.

    None keeps for ever. A job with a message that is still to be delivered is kept until it was. Several processes may
    do this at once. Raises Unavailable; what was deleted until then stays deleted.
    """
    kinds: list[tuple[float | None, Callable[[UnitOfWork], Jobs | Batches]]] = [
        (jobs_days, lambda unit: unit.jobs),
        (results_days, lambda unit: unit.batches),
    ]
    for days, repository in kinds:
        if days is None:
            continue
        with registry.read() as unit:
            expired = repository(unit).ended_before(unit.now() - timedelta(days=days), limit=most)
        for record_id in expired:
            with suppress(NotFound):  # another process was faster
                with registry.write() as unit:
                    unit.after_commit.unreferenced += repository(unit).delete(record_id)
                yield record_id
