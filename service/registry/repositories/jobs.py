"""The repositories of what workers carry out: calibration jobs, batch predictions, and calibrators fitted on scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import ColumnElement, delete, exists, or_, select, update

from fedlas.contract.records import FINAL
from service.registry import tables
from service.registry.errors import Conflict
from service.registry.repositories.job_history import Checkpoints, Deliveries, EvaluationLedger, Events
from service.registry.repositories.pieces import Pieces
from service.registry.repositories.records import AfterCommit, Ended, ListFilter, Records
from service.registry.tables import Json

Row = TypeVar("Row", bound=tables.Run)


class Runs(Records[Row]):
    """The common repository of jobs and batch predictions, which wait, run, and end."""

    def change_status(self, row: Row, status: str) -> None:
        """Set the status and its times; raises Conflict where the run has ended."""
        if row.status in FINAL:
            raise Conflict("already_finished", f"{row.id} has already {row.status}")
        row.status = status
        if status == "running" and row.started_at is None:
            row.started_at = self.now
        if status in FINAL:
            row.finished_at = self.now
            code = str((row.error or {}).get("code")) if status == "failed" else None
            AfterCommit.of(self.session).ended.append(
                Ended(row.id, status, code, Events(self.session).stage_seconds(row.id))
            )
            if row.progress.get("eta_seconds") is not None:  # nothing is left to wait for
                row.progress = {**row.progress, "eta_seconds": None}

    def requeue(self, record_id: str, reason: str) -> None:
        row = self.get(record_id)
        if row.status == "running":
            self.change_status(row, "queued")

    def fail(self, row: Row, error: Json) -> None:
        row.error = error
        self.change_status(row, "failed")

    def ended_before(self, moment: datetime, *, limit: int) -> Sequence[str]:
        """Ids of at most `limit` runs that ended before this moment, those first that ended first."""
        ended = select(self.table.id).where(self.table.finished_at < moment, *self._is_over())
        return self.session.scalars(ended.order_by(self.table.finished_at).limit(limit)).all()

    def _is_over(self) -> Iterator[ColumnElement[bool]]:
        """Conditions, beside its end, for nothing more to come of it."""
        yield from ()

    def delete(self, record_id: str) -> list[str]:
        """Delete with its files and pieces. Raises Conflict while it waits or runs."""
        row = self.get(record_id)
        if row.status not in FINAL:
            message = f"{record_id} is {row.status}; it can be deleted once it has ended"
            raise Conflict("not_finished", message, passing=True)
        unreferenced, dropped = self._delete(row), Pieces(self.session).drop(record_id)
        kept = self.referenced(dropped)
        return [*unreferenced, *(digest for digest in dropped if digest not in kept)]

    def _is_called(self, name: str) -> ColumnElement[bool]:
        named = select(tables.Model.id).where(tables.Model.name == name)
        published = select(tables.PublishedVersion.model_id).where(tables.PublishedVersion.name == name)
        called: ColumnElement[bool] = self.table.model_id.in_(named.union(published))
        return called


class Jobs(Runs[tables.Job]):
    table = tables.Job
    noun = "job"

    def open(self, row: tables.Job) -> None:
        moment = self.now
        row.history = [{"status": row.status, "at": moment.isoformat()}]
        self.add(row)
        self.session.add(tables.Event(job_id=row.id, number=1, type="status", at=moment, data={"status": row.status}))

    def add(self, row: tables.Job) -> tables.Job:
        publish_as, words = row.request.get("publish_as"), row.request.get("metadata")
        row.publish_as = publish_as if isinstance(publish_as, str) else None
        for name, value in words.items() if isinstance(words, dict) else ():
            self.session.add(tables.JobMetadata(job_id=row.id, name=name, value=value))
        self.session.add(row)
        return row

    def of_model(self, model_id: str, *, limit: int) -> Iterator[tables.Job]:
        return self.newest(tables.Job.model_id == model_id, limit=limit, after=None)

    def behind(self, model: tables.Model) -> tables.Job | None:
        """The job that made this model, or else the newest that has left it as it is; None where neither is there."""
        if model.job_id is not None:
            return self.find(model.job_id)
        left = (tables.Job.model_id == model.id, tables.Job.calibrated_model_id == model.id)
        return next(self.newest(*left, limit=1, after=None), None)

    def of_dataset(self, dataset_id: str, *, limit: int) -> Iterator[tables.Job]:
        return self.newest(tables.Job.dataset_id == dataset_id, limit=limit, after=None)

    def change_status(self, row: tables.Job, status: str) -> None:
        """Change the status, with an event; a job without a result leaves the evaluation ledger."""
        super().change_status(row, status)
        row.history = [*row.history, {"status": status, "at": self.now.isoformat()}]
        self.session.flush()  # events and messages name a job that is there
        Events(self.session).add(row.id, "status", {"status": status})
        if status in ("failed", "cancelled"):
            EvaluationLedger(self.session).withdraw(row.id)
        if status in FINAL:
            AfterCommit.of(self.session).unreferenced += Checkpoints(self.session).drop(row.id)
            Deliveries(self.session).announce(row)

    def requeue(self, record_id: str, reason: str) -> None:
        if self.get(record_id).status == "running":
            Events(self.session).add(record_id, "attempt", {"reason": reason})
        super().requeue(record_id, reason)

    def add_warning(self, row: tables.Job, notice: Json) -> None:
        """Keep a warning, with an event; nothing happens where an earlier attempt has given the same."""
        if notice not in row.warnings:
            row.warnings = [*row.warnings, notice]
            Events(self.session).add(row.id, "warning", notice)

    def enter_stage(self, row: tables.Job, stage: str) -> None:
        if row.stage != stage:
            Events(self.session).add(row.id, "stage", {"stage": stage})
        row.stage = stage

    def delete(self, record_id: str) -> list[str]:
        """Delete with its events and messages; its model stays, and so do its looks at test rows."""
        unreferenced = super().delete(record_id)
        Deliveries(self.session).delete_of(record_id)
        for kept in (tables.Event, tables.JobMetadata):
            self.session.execute(delete(kept).where(kept.job_id == record_id))
        made = update(tables.Model).where(tables.Model.job_id == record_id)
        self.session.execute(made.values(job_deleted_at=self.now))
        return unreferenced

    def _is_over(self) -> Iterator[ColumnElement[bool]]:
        """The message about its end has arrived, or never will."""
        yield ~exists().where(tables.Delivery.job_id == tables.Job.id, tables.Delivery.status == "pending")

    def _conditions(self, only: ListFilter) -> Iterator[ColumnElement[bool]]:
        yield from super()._conditions(only)
        of = tables.JobMetadata
        for name, value in only.metadata.items():
            yield tables.Job.id.in_(select(of.job_id).where(of.name == name, of.value == value))

    def _is_called(self, name: str) -> ColumnElement[bool]:
        return or_(tables.Job.publish_as == name, super()._is_called(name))


class Batches(Runs[tables.Batch]):
    """The repository of batch predictions, whose results are the files of their pieces."""

    table = tables.Batch
    noun = "prediction"

    def change_status(self, row: tables.Batch, status: str) -> None:
        """Change the status; a failed batch keeps no piece, and no piece of an ended one is worked on any more."""
        super().change_status(row, status)
        pieces = Pieces(self.session)
        if status == "failed":
            AfterCommit.of(self.session).unreferenced += pieces.drop(row.id)
        elif status in FINAL:
            pieces.close(row.id)

    def advance(self, record_id: str) -> None:
        """Write how much of its pieces is done, and when the rest will be if that goes on as it went until now."""
        row = self.session.get_one(tables.Batch, record_id, with_for_update=True, populate_existing=True)
        if row.status in FINAL or row.started_at is None:
            return
        done = Pieces(self.session).progress(record_id)
        passed = (self.now - row.started_at).total_seconds()
        row.progress = {
            "fraction": round(done, 4),
            "eta_seconds": round(passed * (1 - done) / done, 1) if done else None,
        }


class Calibrators(Records[tables.Calibrator]):
    table = tables.Calibrator
    noun = "calibrator"

    def fitted(self, record_id: str, result: Mapping[str, object], files: Mapping[str, str]) -> None:
        """The calibrator is fitted and judged; `files` are the digests of what was written, by column."""
        row = self.get(record_id)
        columns = {name: result[name] for name in ("profile", "method", "parameters")}
        for column, value in {**columns, **files, "report": result["excerpt"], "status": "succeeded"}.items():
            setattr(row, column, value)

    def fail(self, record_id: str, error: Json) -> None:
        row = self.get(record_id)
        row.status, row.error = "failed", error
        EvaluationLedger(self.session).withdraw(record_id)

    def delete(self, record_id: str) -> list[str]:
        """Delete with its scores; work that is still open on it is closed."""
        row = self.get(record_id)
        if row.status not in FINAL:
            EvaluationLedger(self.session).withdraw(record_id)
        return self._delete(row)
