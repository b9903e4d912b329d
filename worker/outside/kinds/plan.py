"""Dry runs: no test row is looked at, nothing is published, and a plan is left in the job's record."""

from __future__ import annotations

from pathlib import Path

from service.registry import tables
from service.registry.presenters import job_record
from service.registry.unit_of_work import UnitOfWork
from worker.documents import PlanOrder, PlanResult
from worker.outside.kinds.base import JsonObject, require_answerable
from worker.outside.kinds.jobs import JobKind
from worker.sandbox.protocol import Limits


class Plan(JobKind):
    """Everything that a job would check, and what it would take."""

    order = PlanOrder

    def looks_before(self, unit: UnitOfWork, row: tables.Job, dataset: tables.Dataset) -> int:
        """What the job would be told, without a place in the ledger."""
        return unit.ledger.evaluations(dataset.sha256)

    def limits(self, row: tables.Job) -> Limits:
        """As long as a job may go beyond its budget: reading large inputs takes as long as before training."""
        return Limits(self.settings.job_grace_seconds)

    def succeeded(self, result: JsonObject, folder: Path) -> None:
        """Keep the plan."""
        plan = PlanResult.arrived(result).plan.stored()
        with self.publishing() as unit:
            row = unit.jobs.get(self.record_id)
            row.plan, row.progress = plan, {"fraction": 1.0}
            unit.jobs.change_status(row, "succeeded")
            require_answerable(job_record(row, unit.work.of(row.id)))
