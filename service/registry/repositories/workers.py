"""The workers: name, process, queues, and the time of the last heartbeat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from sqlalchemy import delete, select

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

    def known(self) -> Sequence[WorkerProcess]:
        """All that have not been forgotten, by their names."""
        return self.session.scalars(select(WorkerProcess).order_by(WorkerProcess.name)).all()

    def silent(self, *, for_seconds: float) -> list[str]:
        """Names of workers without a heartbeat for so long."""
        before = self.now - timedelta(seconds=for_seconds)
        return list(self.session.scalars(select(WorkerProcess.name).where(WorkerProcess.seen_at < before)))

    def forget(self, names: Iterable[str]) -> None:
        """Delete these workers."""
        self.session.execute(delete(WorkerProcess).where(WorkerProcess.name.in_(list(names))))
