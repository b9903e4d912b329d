"""Where each kind of work meets the registry: what the child needs, and how its answer is published.

Everything is written in one transaction that first proves that the claim still holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.ids import new_id
from service.registry.repositories import Claim
from service.registry.repositories.records import now
from service.registry.unit_of_work import Registry, UnitOfWork
from worker.sandbox import Limits
from worker.settings import WorkerSettings

Json = dict[str, Any]


class NotReady(Exception):
    """The records this work needs are still being inspected."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the child is given."""

    spec: Json
    limits: Limits


class Step(ABC):
    """One piece of claimed work."""

    name: ClassVar[str]

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        self.registry = registry
        self.settings = settings
        self.claim = claim
        self.record_id = claim.record_id

    @abstractmethod
    def begin(self) -> Prepared | None:
        """Note that the work has begun and say what the child needs; None if it is already settled."""

    @abstractmethod
    def succeeded(self, result: Json, folder: Path) -> Sequence[str]:
        """Publish the child's result and its files; return the ids of records that waited for this one."""

    @abstractmethod
    def failed(self, error: Json) -> Sequence[str]:
        """Publish why there is no result; return the ids of records that waited for this one."""

    def note(self, event: Json) -> None:
        """Remember a progress event of the child until the next heartbeat."""

    def beat(self, unit: UnitOfWork) -> bool:
        """Write what was noted; return whether the work should be cancelled."""
        return False

    def cancelled(self) -> None:
        """The child was stopped because of a cancellation."""

    @contextmanager
    def publishing(self) -> Iterator[UnitOfWork]:
        """A transaction that ends this work; raises LeaseLost, writing nothing, if the claim no longer holds."""
        with self.registry.write() as unit:
            unit.work.finish(self.claim)
            yield unit

    def staged(self, path: Path) -> StagedFile:
        """A file of the child's, copied to the storage's disk before any transaction begins."""
        return self.registry.artifacts.stage_file(path)

    def path(self, digest: str | None) -> str:
        """Where the child finds a stored file."""
        assert digest is not None
        return str(self.registry.artifacts.path(digest))

    def _inspection_limits(self, size: int) -> Limits:
        # The prepared copy may be larger than a compressed upload, but not without bounds.
        file_size = max(64 * 1024**2, min(64 * size, 4 * self.settings.max_upload_bytes))
        return Limits(self.settings.inspection_seconds, self.settings.inspection_memory_bytes, file_size)


class InspectDataset(Step):
    """An uploaded dataset becomes ready with a profile, or rejected with a reason."""

    name = "inspect_dataset"

    def begin(self) -> Prepared | None:
        """Nothing to note: it is inspecting from the start."""
        with self.registry.read() as unit:
            row = unit.datasets.get(self.record_id)
        return Prepared({"file": self.path(row.sha256), "options": row.options}, self._inspection_limits(row.bytes))

    def succeeded(self, result: Json, folder: Path) -> Sequence[str]:
        """Keep the prepared copy, in which the splits are fixed."""
        with self.staged(folder / result["prepared"]) as prepared, self.publishing() as unit:
            unit.datasets.ready(self.record_id, profile=result["profile"], prepared_sha256=prepared.keep())
            return unit.jobs.waiting_for(self.record_id)

    def failed(self, error: Json) -> Sequence[str]:
        """Reject."""
        with self.publishing() as unit:
            unit.datasets.reject(self.record_id, error)
            return unit.jobs.waiting_for(self.record_id)


class InspectModel(Step):
    """An uploaded model becomes ready with a served copy, or rejected with a reason."""

    name = "inspect_model"

    def begin(self) -> Prepared | None:
        """Nothing to note: it is inspecting from the start."""
        with self.registry.read() as unit:
            row = unit.models.get(self.record_id)
        return Prepared({"file": self.path(row.sha256), "options": row.options}, self._inspection_limits(row.bytes))

    def succeeded(self, result: Json, folder: Path) -> Sequence[str]:
        """Keep the served copy."""
        with self.staged(folder / result["served"]) as served, self.publishing() as unit:
            unit.models.ready(self.record_id, profile=result["profile"], served_sha256=served.keep())
            return unit.jobs.waiting_for(self.record_id)

    def failed(self, error: Json) -> Sequence[str]:
        """Reject."""
        with self.publishing() as unit:
            unit.models.reject(self.record_id, error)
            return unit.jobs.waiting_for(self.record_id)


def _ready(unit: UnitOfWork, model_id: str, dataset_id: str) -> tuple[tables.Model, tables.Dataset] | Json:
    """The model and dataset if both are ready, or the error to fail with; raises NotReady while inspecting."""
    model, dataset = unit.models.find(model_id), unit.datasets.find(dataset_id)
    for noun, row in (("model", model), ("dataset", dataset)):
        if row is None:
            return {"code": f"{noun}_deleted", "message": f"the {noun} was deleted", "user_error": True}
        if row.status == "rejected":
            reason = (row.error or {}).get("message", "")
            message = f"the {noun} {row.id} was rejected by inspection: {reason}"
            return {"code": f"{noun}_rejected", "message": message, "user_error": True}
        if row.status != "ready":
            raise NotReady(f"{row.id} is still being inspected")
    assert model is not None
    assert dataset is not None
    return model, dataset


def _importing(model: tables.Model) -> Json:
    """How the importer is to understand the model's file."""
    if model.origin == "calibrated":  # our own file: its calibrated output is the one that counts
        return {"output": "probabilities", "task": (model.profile or {}).get("task")}
    return {name: model.options.get(name) for name in ("output", "features", "task")}


class Calibrate(Step):
    """The job itself."""

    name = "calibrate"

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        super().__init__(registry, settings, claim)
        self._stage = "inspecting"
        self._progress: Json = {}

    def begin(self) -> Prepared | None:
        """Mark as running; settle at once what was cancelled or cannot run."""
        with self.registry.write() as unit:
            row = unit.jobs.get(self.record_id)
            if row.status == "cancelling":
                unit.work.finish(self.claim)
                unit.jobs.change_status(row, "cancelled")
                return None
            ready = _ready(unit, row.model_id, row.dataset_id)
            if isinstance(ready, dict):
                unit.work.finish(self.claim)
                unit.jobs.fail(row, ready)
                return None
            if row.status != "running":
                unit.jobs.change_status(row, "running")
            row.stage, row.progress = "inspecting", {"fraction": 0.0}
            judged_before = unit.jobs.judged_before(row)
        return Prepared(self._spec(row, *ready, judged_before), self._limits(row))

    def _spec(self, row: tables.Job, model: tables.Model, dataset: tables.Dataset, judged_before: int) -> Json:
        return {
            "job_id": row.id,
            "request": row.request,
            "model": {
                "id": model.id,
                "file": self.path(model.sha256),
                "sha256": model.sha256,
                "importing": _importing(model),
                "profile": model.profile,
            },
            "dataset": {
                "id": dataset.id,
                "file": self.path(dataset.prepared_sha256),
                "sha256": dataset.sha256,
                "prepared_sha256": dataset.prepared_sha256,
            },
            "judged_before": judged_before,
        }

    def _limits(self, row: tables.Job) -> Limits:
        return Limits(60 * row.request["budget"]["minutes"] + self.settings.job_grace_seconds)

    def note(self, event: Json) -> None:
        """Remember stage and progress."""
        self._stage = event.get("stage", self._stage)
        self._progress = event.get("progress", self._progress)

    def beat(self, unit: UnitOfWork) -> bool:
        """Write stage and progress."""
        row = unit.jobs.get(self.record_id)
        if self._progress:
            row.stage, row.progress = self._stage, self._progress
        return row.status == "cancelling"

    def succeeded(self, result: Json, folder: Path) -> Sequence[str]:
        """Publish calibrated model, report and diagram together with the job's end."""
        names = ["report", "diagram", *(["model"] if result["calibrated"] is not None else [])]
        with ExitStack() as stack:
            files = {name: stack.enter_context(self.staged(folder / result[name])) for name in names}
            unit = stack.enter_context(self.publishing())
            row = unit.jobs.get(self.record_id)
            row.report_sha256, row.diagram_sha256 = files["report"].keep(), files["diagram"].keep()
            row.verdict, row.promoted = result["verdict"], result["promoted"]
            served = unit.models.get(row.model_id)
            if result["calibrated"] is not None:
                served = unit.models.add(_calibrated(served, row, result["calibrated"], files["model"]))
            row.calibrated_model_id = served.id
            if row.request["publish_as"] and (row.promoted or row.request["publish_when"] == "always"):
                version = unit.names.publish(row.request["publish_as"], served)
                if served.origin == "calibrated":
                    served.name, served.version = row.request["publish_as"], version
            row.stage, row.progress = "publishing", {"fraction": 1.0}
            unit.jobs.change_status(row, "succeeded")
        return ()

    def failed(self, error: Json) -> Sequence[str]:
        """The job ends without a result."""
        with self.publishing() as unit:
            unit.jobs.fail(unit.jobs.get(self.record_id), error)
        return ()

    def cancelled(self) -> None:
        """The job ends because somebody asked for it."""
        with self.publishing() as unit:
            unit.jobs.change_status(unit.jobs.get(self.record_id), "cancelled")


def _calibrated(parent: tables.Model, job: tables.Job, profile: Json, file: StagedFile) -> tables.Model:
    digest = file.keep()
    return tables.Model(
        id=new_id("mdl"),
        name=parent.name,
        version=1,
        origin="calibrated",
        status="ready",
        created_at=now(),
        sha256=digest,
        served_sha256=digest,
        bytes=file.size,
        options={},
        profile=profile,
        calibrated=True,
        parent_id=parent.id,
        job_id=job.id,
    )


class Predict(Step):
    """Predictions over a stored dataset."""

    name = "predict"

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        super().__init__(registry, settings, claim)
        self._progress: Json = {}

    def begin(self) -> Prepared | None:
        """Mark as running; settle at once what cannot run."""
        with self.registry.write() as unit:
            row = unit.batches.get(self.record_id)
            ready = _ready(unit, row.model_id, row.dataset_id)
            if isinstance(ready, dict):
                unit.work.finish(self.claim)
                unit.batches.fail(row, ready)
                return None
            unit.batches.change_status(row, "running")
        model, dataset = ready
        spec = {
            "model": {"file": self.path(model.served_sha256), "profile": model.profile},
            "dataset": {"file": self.path(dataset.prepared_sha256)},
            "options": row.options,
        }
        return Prepared(spec, Limits(seconds=24 * 3600))

    def note(self, event: Json) -> None:
        """Remember progress."""
        self._progress = event.get("progress", self._progress)

    def beat(self, unit: UnitOfWork) -> bool:
        """Write progress."""
        unit.batches.get(self.record_id).progress = self._progress
        return False

    def succeeded(self, result: Json, folder: Path) -> Sequence[str]:
        """Keep the results."""
        with self.staged(folder / result["results"]) as staged, self.publishing() as unit:
            row = unit.batches.get(self.record_id)
            row.results_sha256, row.num_rows = staged.keep(), result["num_rows"]
            row.progress = {"fraction": 1.0}
            unit.batches.change_status(row, "succeeded")
        return ()

    def failed(self, error: Json) -> Sequence[str]:
        """The batch ends without a result."""
        with self.publishing() as unit:
            unit.batches.fail(unit.batches.get(self.record_id), error)
        return ()


#: By the prefix of the record's id.
STEPS: dict[str, type[Step]] = {"ds": InspectDataset, "mdl": InspectModel, "job": Calibrate, "bat": Predict}
