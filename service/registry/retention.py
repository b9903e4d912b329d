"""Retention: deletes jobs and batch predictions that ended longer ago than the operator keeps them.

What is deleted goes as with DELETE: a job with its report, events and messages, a batch with its results. What still
serves stays: a job's calibrated model and the names that it is published under. So do the evaluation ledger and the
digests of rows that models were trained on, or else deleting a job would make its test rows look unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta

from service.registry.errors import NotFound
from service.registry.registry import Registry
from service.registry.repositories.jobs import Batches, Jobs
from service.registry.unit_of_work import UnitOfWork

#: Records deleted in one call of each kind, each in a transaction of its own: other writers come in between.
_MOST_RECORDS = 500


def delete_expired(
    registry: Registry, *, jobs_days: float | None, results_days: float | None, most: int = _MOST_RECORDS
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
