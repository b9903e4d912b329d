"""Scores without a model: they become a calibrator, or an error that says what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import BaseModel

from service.registry.artifacts import StagedFile
from service.registry.contract import RecordError
from service.registry.presenters import calibrator_record
from service.registry.registry import UnitOfWork
from worker.documents import ScoresOptions, ScoresOrder, ScoresResult
from worker.outside.kinds.base import ChildWork, Prepared
from worker.settings import inspection_limits

#: How many times as long as an inspection it may take.
_TIMES_LONGER = 5
#: The report of 100,000 rows of 100 classes takes 1.2 GiB, an inspection of so large a file may take 1.05.
_TIMES_MORE_MEMORY = 2


class FitScores(ChildWork[ScoresResult]):
    """Uploaded scores become a fitted calibrator, its report and its ONNX file."""

    result = ScoresResult

    def begin(self) -> Prepared:
        """Take a look: the test rows will judge."""
        with self.registry.write() as unit:
            unit.work.verify(self.claim)
            row = unit.calibrators.get(self.record_id)
            looks_before = unit.ledger.enter(row.sha256, row.id)
        options = ScoresOptions.read(row.options)
        order = ScoresOrder(
            id=row.id,
            name=row.name,
            created_at=row.created_at,
            sha256=row.sha256,
            options=options,
            looks_before=looks_before,
        )
        # Reading them is quick, judging 100,000 rows of 1,000 classes is not: the client is answered 202 by then.
        limits = inspection_limits(self.settings, row.bytes)
        assert limits.memory is not None
        longer, more = _TIMES_LONGER * limits.seconds, _TIMES_MORE_MEMORY * limits.memory
        limits = replace(limits, seconds=longer, memory=more)
        return Prepared(order=order, limits=limits, files={"scores": self.stored(row.sha256)})

    def publish(self, unit: UnitOfWork, found: ScoresResult, files: Mapping[str, StagedFile]) -> BaseModel:
        """Keep the calibrator's file, its report, page and diagram."""
        kept = {f"{name}_sha256": file.keep() for name, file in files.items()}
        unit.calibrators.fitted(self.record_id, found.stored(), kept)
        return calibrator_record(unit, unit.calibrators.get(self.record_id))

    def fail(self, unit: UnitOfWork, error: RecordError) -> None:
        """There is no calibrator."""
        unit.calibrators.fail(self.record_id, error.model_dump())
