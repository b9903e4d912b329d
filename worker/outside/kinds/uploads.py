"""Inspections of models and datasets, and scores that become a calibrator: an upload is ready, or rejected."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel

from fedlas.contract.base import Document
from fedlas.contract.options import ModelOptions, ScoresOptions
from fedlas.contract.profiles import ModelProfile
from fedlas.contract.records import RecordError
from fedlas.contract.report import Report
from fedlas.contract.scores import ScoreReport, ScoreServing
from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.presenters import calibrator_record, dataset_record, model_record
from service.registry.registry import UnitOfWork
from service.registry.repositories.records import Datasets, Models
from service.registry.settings import WorkerSettings
from service.registry.tables import now
from worker.documents import (
    DatasetInspection,
    InspectDatasetOrder,
    InspectModelOrder,
    ModelInspection,
    ScoresOrder,
    ScoresResult,
)
from worker.outside.kinds.base import ChildWork, Prepared, R, lasting_error
from worker.sandbox import process as sandbox
from worker.sandbox.protocol import Limits, Loaded

#: Two layers: four numbers, eight features, two classes.
_SAMPLE = Path(__file__).parents[2] / "inside" / "sample.onnx"
#: How many times as long as an inspection it may take.
_TIMES_LONGER = 5
#: The report of 100,000 rows of 100 classes takes 1.2 GiB, an inspection of so large a file may take 1.05.
_TIMES_MORE_MEMORY = 2
_MEBIBYTE = 1024**2
#: An importer holds the file, its message, the arrays, the network, the session and the copy it writes. A forest is
#: lists of small numbers, a byte or two each in the file and an object in Python: 25 MB of it took 1.2 GiB.
_MEMORY_PER_BYTE = 8
_MEMORY_PER_LISTED_BYTE = 40
_LISTED_BYTES = 64 * _MEBIBYTE
#: Large files may take longer: this is what a busy machine reads, checks and writes again. Their arrays are mapped, the
#: upload's and the copy's, perhaps inflated: address space is no memory.
_BYTES_PER_SECOND = 10_000_000
_COPIES = 16


def inspection_limits(settings: WorkerSettings, size: int) -> Limits:
    """Limits of a child that opens an upload of this size: bytes that few bytes claim to be are not made."""
    most = settings.inspection_memory_bytes
    opened = _MEMORY_PER_BYTE * size + (_MEMORY_PER_LISTED_BYTE - _MEMORY_PER_BYTE) * min(size, _LISTED_BYTES)
    return Limits(
        seconds=settings.inspection_seconds + size / _BYTES_PER_SECOND,
        address_space=most + _COPIES * size,
        # The prepared copy may be larger than a compressed upload, but not without bounds.
        file_size=max(64 * _MEBIBYTE, min(64 * size, 4 * settings.max_upload_bytes)),
        memory=min(most, settings.inspection_base_bytes + opened),
        cores=settings.inspection_cores,
    )


def try_sample(
    settings: WorkerSettings,
    work_dir: Path,
    *,
    expected: Collection[str] = (),
    on_tick: Callable[[], None] = lambda: None,
) -> tuple[Loaded | None, str | None]:
    """Open a sample of our own in a child, confined and limited as for any upload; `on_tick` may raise to end it.

    Returns:
        What its libraries take, None if they were not loaded; and why no upload can be opened here, None if one can.
    """
    limits = inspection_limits(settings, _SAMPLE.stat().st_size)
    request = Prepared(
        order=InspectModelOrder(options=ModelOptions()),
        limits=limits,
        files={"model": str(_SAMPLE)},
        expected=list(expected),
    )
    try:
        with sandbox.private_folder(work_dir) as folder:
            outcome = sandbox.run(request, folder=folder, on_event=lambda event: None, on_tick=on_tick)
    except OSError as failed:
        return None, f"this worker cannot start a process that opens uploads: {failed}"
    if outcome.result is not None:
        return outcome.loaded, None
    error = lasting_error(outcome, limits)
    reason = (outcome.died or outcome.unprotected) if error is None else error.message
    return outcome.loaded, f"this worker cannot open a sample of its own, nor any upload: {reason}"


class _Inspection(ChildWork[R]):
    """Either kind; jobs that wait for the upload go on when it is ready or rejected."""

    order: type[InspectDatasetOrder | InspectModelOrder]

    def begin(self) -> Prepared:
        """Nothing to note: the record is `inspecting` from the start."""
        with self.registry.read() as unit:
            records = self._records(unit)
            row = records.get(self.record_id)
        return Prepared(
            order=self.order.read({"options": row.options}),
            limits=inspection_limits(self.settings, row.bytes),
            files={records.noun: self.stored(row.sha256)},
        )

    def _records(self, unit: UnitOfWork) -> Datasets | Models:
        return unit.datasets if self.result is DatasetInspection else unit.models

    def publish(self, unit: UnitOfWork, result: R, files: Mapping[str, StagedFile]) -> BaseModel:
        record = self.ready(unit, result, files)
        unit.work.unblock(unit.jobs.open_users(self.record_id))
        return record

    @abstractmethod
    def ready(self, unit: UnitOfWork, inspection: R, files: Mapping[str, StagedFile]) -> BaseModel:
        """Write the profile and keep the copy."""

    def fail(self, unit: UnitOfWork, error: RecordError) -> None:
        self._records(unit).reject(self.record_id, error.model_dump())
        unit.work.unblock(unit.jobs.open_users(self.record_id))


class InspectDataset(_Inspection[DatasetInspection]):
    """An uploaded dataset becomes ready with a profile and a prepared copy, in which the splits are fixed."""

    result, order = DatasetInspection, InspectDatasetOrder

    def ready(self, unit: UnitOfWork, inspection: DatasetInspection, files: Mapping[str, StagedFile]) -> BaseModel:
        unit.datasets.ready(
            self.record_id, profile=inspection.profile.stored(), prepared_sha256=files["prepared"].keep()
        )
        return dataset_record(unit, unit.datasets.get(self.record_id))


class InspectModel(_Inspection[ModelInspection]):
    """An uploaded model becomes ready with a profile and a served copy."""

    result, order = ModelInspection, InspectModelOrder

    def ready(self, unit: UnitOfWork, inspection: ModelInspection, files: Mapping[str, StagedFile]) -> BaseModel:
        digest = files["served"].keep()
        unit.models.ready(
            self.record_id, profile=inspection.profile.stored(), served_sha256=digest, written_by=inspection.written_by
        )
        return model_record(unit, unit.models.get(self.record_id))


def _obstacle(unit: UnitOfWork, name: str, fresh: ScoreServing) -> str | None:
    """The reason why a name answers as before: a promise is a contract, which a new version must hold, too."""
    if not unit.names.exists(name):
        return None
    served = (unit.models.get(unit.names.resolve(name)).profile or {}).get("scores")
    if served is None:
        return f"{name!r} is the name of a model that takes no scores"
    before = ScoreServing.read(served)
    if before.signals != fresh.signals:
        return f"{name!r} takes {', '.join(before.signals)}, and this {', '.join(fresh.signals)}"
    if before.valid_for is not None and fresh.valid_for is None:
        return f"the version that answers is valid for {before.valid_for!r}: say valid_for of this one, too"
    if before.promise.threshold is None:
        return None
    made = {one.value for one in before.promise.per_slice if one.threshold is not None}
    if made - {one.value for one in fresh.promise.per_slice if one.threshold is not None}:
        return f"the version that answers has thresholds by {before.promise.slice!r} that this one lacks"
    if fresh.promise.threshold is None:
        return f"the version that answers promises something, and this one does not: {fresh.promise.sentence}"
    old = before.promise
    if fresh.promise.answers(max_error=old.max_error, recall=old.recall, confidence=old.confidence):
        return None
    return f"the version that answers promises more: {before.promise.sentence}"


class FitScores(ChildWork[ScoresResult]):
    """Uploaded scores become a fitted calibrator, its report and its ONNX file."""

    result = ScoresResult

    def begin(self) -> Prepared:
        """Take a look: the test rows will judge."""
        with self.registry.write() as unit:
            unit.work.verify(self.claim)
            row = unit.calibrators.get(self.record_id)
            looks_before, earlier = unit.calibrators.look(row), unit.calibrators.promised(row)
        order = ScoresOrder(
            id=row.id,
            name=row.name,
            created_at=row.created_at,
            sha256=row.sha256,
            options=ScoresOptions.read(row.options),
            looks_before=looks_before,
            earlier=earlier,
        )
        # Reading them is quick, judging 100,000 rows of 1,000 classes is not: the client is answered 202 by then.
        limits = inspection_limits(self.settings, row.bytes)
        assert limits.memory is not None
        limits = replace(limits, seconds=_TIMES_LONGER * limits.seconds, memory=_TIMES_MORE_MEMORY * limits.memory)
        return Prepared(order=order, limits=limits, files={"scores": self.stored(row.sha256)})

    def report_kind(self, result: ScoresResult) -> type[Document]:
        return Report if result.model is None else ScoreReport

    def publish(self, unit: UnitOfWork, result: ScoresResult, files: Mapping[str, StagedFile]) -> BaseModel:
        kept = {f"{name}_sha256": file.keep() for name, file in files.items()}
        unit.calibrators.fitted(self.record_id, result.stored(), kept)
        row = unit.calibrators.get(self.record_id)
        if result.model is not None:
            self._serve(unit, row, result.model, files["onnx"].size)
        return calibrator_record(unit, row)

    def _serve(self, unit: UnitOfWork, row: tables.Calibrator, profile: ModelProfile, size: int) -> None:
        """Make a model of the fitted score, under the calibrator's own number, and a version of the wanted name."""
        model = tables.Model(
            id=row.model_id,
            name=row.name,
            origin="calibrated",
            status="ready",
            created_at=now(),
            sha256=row.onnx_sha256,
            served_sha256=row.onnx_sha256,
            bytes=size,
            options={},
            profile=profile.stored(),
            calibrated=True,
        )
        unit.models.add(model)
        assert profile.scores is not None
        if (name := ScoresOptions.read(row.options).publish_as) is not None:
            reason = _obstacle(unit, name, profile.scores)
            version = None if reason else unit.names.publish(name, model)
            row.profile = {**(row.profile or {}), "version": version, "not_published": reason}

    def fail(self, unit: UnitOfWork, error: RecordError) -> None:
        unit.calibrators.fail(self.record_id, error.model_dump())
