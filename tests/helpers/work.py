"""Work of one record, claimed and executed in this thread."""

from __future__ import annotations

from service.registry.registry import Registry
from worker.outside.supervisor import Supervisor

_LEASE_S = 6


def execute(supervisor: Supervisor, registry: Registry, record_id: str) -> None:
    """Claim the work of this record and execute it; nothing happens where it is not open or another worker has it."""
    with registry.write() as unit:
        claim = unit.work.claim(record_id, worker=supervisor.name, lease_seconds=_LEASE_S)
    if claim is not None:
        supervisor.execute(claim)
