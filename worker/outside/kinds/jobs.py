"""What a calibration and its dry run have in common: one row, one progress, one child that reads both inputs."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import get_args

from service.registry import tables
from service.registry.contract import JobRequest
from service.registry.documents import Stage
from service.registry.errors import NotFound
from service.registry.repositories import Claim
from service.registry.settings import GIBIBYTE
from service.registry.unit_of_work import Registry, UnitOfWork
from worker.outside.kinds.base import Json, Prepared, WorkKind, ready
from worker.outside.kinds.child_events import sound_candidate, sound_progress
from worker.sandbox.process import Limits
from worker.settings import WorkerSettings

#: What the sender said of a model and the importer must know.
_IMPORTING = ("output", "features", "task", "architecture", "num_classes", "preprocessing")
_NOT_TOLD = {"webhook", "metadata"}
_STAGES = get_args(Stage)
#: A race has at most a thousand candidates; a child that tells of more is not listened to.
_MOST_CANDIDATES = 1100
#: What a candidate answered on the calibration rows, and its network with its optimiser.
_CHECKPOINT_BYTES, _COPIES = 2 * GIBIBYTE, 6
#: Progress is an event when it has grown by so much, or another candidate runs: jobs may take days.
_NEWS = 0.01


class JobKind(WorkKind):
    """A job of either kind."""

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        super().__init__(registry, settings, claim)
        self._stage = "inspecting"
        self._progress: Json = {}
        self._told: Json = {}
        self._candidates: deque[Json] = deque()
        self._heard = 0
        self._telling = threading.Lock()

    @abstractmethod
    def looks_before(self, unit: UnitOfWork, row: tables.Job, dataset: tables.Dataset) -> int:
        """How often the test rows of this file have been looked at before this job."""

    @abstractmethod
    def limits(self, row: tables.Job) -> Limits:
        """What the child may use."""

    def begin(self) -> Prepared | None:
        """Mark as running; settle at once what was cancelled or cannot run."""
        with self.registry.write() as unit:
            unit.work.prove(self.claim)
            row = unit.jobs.get(self.record_id)
            if row.status == "cancelling":
                unit.work.finish(self.claim)
                unit.jobs.change_status(row, "cancelled")
                return None
            both = ready(unit, row.model_id, row.dataset_id)
            if both is None:
                unit.work.block(self.claim)
                return None
            if isinstance(both, dict):
                unit.work.finish(self.claim)
                unit.jobs.fail(row, both)
                return None
            if row.status != "running":
                unit.jobs.change_status(row, "running")
            unit.jobs.show(row, "inspecting", row.progress or {"fraction": 0.0})
            looks_before = self.looks_before(unit, row, both[1])
            saved = unit.checkpoints.of(row.id)
        spec = {**self._spec(row, *both, looks_before), "journal": {}}
        self._give_saved(saved)
        most_bytes = _CHECKPOINT_BYTES + _COPIES * both[0].bytes
        return self.order(spec, self.limits(row), most_checkpoint_bytes=most_bytes)

    def _spec(self, row: tables.Job, model: tables.Model, dataset: tables.Dataset, looks_before: int) -> Json:
        self.give("model.file", model.sha256)
        self.give("dataset.file", dataset.prepared_sha256)
        return {
            "job_id": row.id,
            "request": _asked(row.request),
            "model": {
                "id": model.id,
                "sha256": model.sha256,
                "importing": importing(model),
                "profile": model.profile,
            },
            "dataset": {
                "id": dataset.id,
                "sha256": dataset.sha256,
                "prepared_sha256": dataset.prepared_sha256,
            },
            "looks_before": looks_before,
            "checkpoint_seconds": self.settings.checkpoint_seconds,
        }

    def _give_saved(self, saved: Mapping[str, str]) -> None:
        """What earlier attempts have left to go on from; an entry that is lost is only trained again."""
        for name, digest in saved.items():
            with suppress(NotFound):
                self.give(f"journal.{name}.file", digest)

    def note(self, event: Json) -> None:
        """Remember stage, progress and what else happened, as far as they are what they seem; pass checkpoints on."""
        if event.get("stage") in _STAGES:
            self._stage = event["stage"]
        if (progress := sound_progress(event.get("progress"))) is not None:
            self._progress = progress
        if (candidate := sound_candidate(event.get("event"))) is not None and self._heard < _MOST_CANDIDATES:
            self._heard += 1
            self._candidates.append(candidate)
        if "checkpoint" in event:
            self.keep(event["checkpoint"])

    @property
    def reached(self) -> float:
        """The share that is done."""
        return float(self._progress.get("fraction", 0.0))

    def beat(self, unit: UnitOfWork) -> bool:
        """Write stage, progress and events."""
        row = unit.jobs.get(self.record_id)
        if row.status == "cancelling":
            return True
        self.tell(unit)
        if progress := self._progress:
            unit.jobs.show(row, self._stage, progress)
            if _is_news(progress, self._told):
                unit.events.add(row.id, "progress", progress)
                unit.afterwards.append(lambda committed: self._told_of(progress if committed else self._told))
        return False

    def tell(self, unit: UnitOfWork) -> None:
        """Write which candidates have ended: once, also where a transaction fails or two threads come at once."""
        self._telling.acquire()
        candidates = list(self._candidates)
        unit.afterwards.append(lambda committed: self._told_candidates(len(candidates) if committed else 0))
        for candidate in candidates:
            unit.events.add(self.record_id, "candidate", candidate)

    def _told_candidates(self, number: int) -> None:
        for _ in range(number):
            self._candidates.popleft()
        self._telling.release()

    def _told_of(self, progress: Json) -> None:
        self._told = progress

    def failed(self, error: Json) -> None:
        """The job ends without a result."""
        with self.publishing() as unit:
            unit.jobs.fail(unit.jobs.get(self.record_id), error)

    def cancelled(self, unit: UnitOfWork) -> None:
        """The job ends because somebody asked for it."""
        unit.work.finish(self.claim)
        unit.jobs.change_status(unit.jobs.get(self.record_id), "cancelled")


def _is_news(progress: Json, told: Json) -> bool:
    grown = progress.get("fraction", 0.0) - told.get("fraction", -1.0) >= _NEWS
    return bool(grown or progress.get("candidate") != told.get("candidate"))


def _asked(request: Json) -> Json:
    """What the child is to do; a job that was ordered before an upgrade gets today's defaults.

    The webhook's secret and the sender's own words are nobody's business in there.
    """
    kept = {name: value for name, value in request.items() if name not in _NOT_TOLD}
    return JobRequest.model_validate(kept).model_dump(exclude=_NOT_TOLD)


def importing(model: tables.Model) -> Json:
    """How the importer is to understand the model's file."""
    said = {name: model.options.get(name) for name in _IMPORTING}
    if model.origin == "calibrated":  # our own file: its calibrated output is the one that counts
        said |= {"output": "probabilities", "task": (model.profile or {}).get("task")}
    return said
