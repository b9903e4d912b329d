"""The workers: name, process, queues, and the time of the last heartbeat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import cached_property

from sqlalchemy import delete, select

from service.registry.contract import TAKERS
from service.registry.repositories.records import Repository
from service.registry.tables import WorkerProcess

#: A worker without a heartbeat for so long counts as dead: several heartbeats, and a slow database.
SILENT_S = 30.0


class Workers(Repository):
    """Record heartbeats, list and forget workers."""

    def heartbeat(
        self,
        name: str,
        *,
        machine: str,
        process: str,
        queues: Sequence[str],
        gpu: bool,
        memory_bytes: int,
        release: str | None = None,
    ) -> None:
        """Record a heartbeat; the first one adds the worker."""
        moment = self.now
        row = self.session.get(WorkerProcess, name)
        if row is not None and row.process == process:
            row.seen_at = moment
            return
        self.session.merge(
            WorkerProcess(
                name=name,
                machine=machine,
                process=process,
                queues=list(queues),
                gpu=gpu,
                memory_bytes=memory_bytes,
                release=release,
                started_at=moment,
                seen_at=moment,
            )
        )

    def on_machine(self, machine: str) -> Sequence[WorkerProcess]:
        """All that were started on this machine and have not been forgotten."""
        return self.session.scalars(select(WorkerProcess).where(WorkerProcess.machine == machine)).all()

    def living(self, *, within_seconds: float) -> Sequence[WorkerProcess]:
        """Workers with a heartbeat within this time."""
        since = self.now - timedelta(seconds=within_seconds)
        return self.session.scalars(select(WorkerProcess).where(WorkerProcess.seen_at >= since)).all()

    @cached_property
    def known(self) -> Sequence[WorkerProcess]:
        """All that have not been forgotten, by their names; read once for all records of a page."""
        with self.session.no_autoflush:  # records that share a transaction are written together
            return self.session.scalars(select(WorkerProcess).order_by(WorkerProcess.name)).all()

    def obstacle(self, queue: str, holder: str | None = None) -> str | None:
        """What keeps work of this queue, perhaps claimed by `holder`, from going on; None where it waits its turn."""
        now = self.now
        ages = {one.name: (now - one.seen_at).total_seconds() for one in self.known if queue in one.queues}
        silent = {name: age for name, age in ages.items() if age > SILENT_S}
        is_served = len(silent) < len(ages)
        if holder in silent:
            others = "another one goes on with it when its lease ends" if is_served else "no other one takes it"
            return f"the worker that runs this has not been heard of for {_roughly(silent[holder])}; {others}"
        if is_served:
            return None
        if not silent:
            return f"no worker takes this; there is none {TAKERS[queue]}"
        verb, last = "has" if len(silent) == 1 else "have", _roughly(min(silent.values()))
        return f"no worker takes this; {len(silent)} of {len(self.known)} {verb} not been heard of for {last}"

    def silent(self, *, for_seconds: float) -> list[str]:
        """Names of workers without a heartbeat for so long."""
        before = self.now - timedelta(seconds=for_seconds)
        return list(self.session.scalars(select(WorkerProcess.name).where(WorkerProcess.seen_at < before)))

    def forget(self, names: Iterable[str]) -> None:
        """Delete these workers."""
        self.session.execute(delete(WorkerProcess).where(WorkerProcess.name.in_(list(names))))


def _roughly(seconds: float) -> str:
    """So long a silence, in steps of 10 s or a minute: the `ETag` of a record that tells of it changes no more often.

    >>> _roughly(47.9), _roughly(750.0)
    ('40 s', '12 min')
    """
    return f"{seconds // 10 * 10:.0f} s" if seconds < 300 else f"{seconds // 60:.0f} min"
