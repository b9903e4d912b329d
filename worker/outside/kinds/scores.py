"""Scores without a model: they become a calibrator, or an error that says what is wrong with them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from service.registry.contract import RecordError
from service.registry.presenters import calibrator_record
from worker.documents import ScoresOptions, ScoresOrder, ScoresResult
from worker.outside.kinds.base import JsonObject, Prepared, WorkKind, check_report, require_answerable
from worker.settings import inspection_limits

#: How many times as long as an inspection it may take.
_TIMES_LONGER = 5
#: The report of 100,000 rows of 100 classes takes 1.2 GiB, an inspection of so large a file may take 1.05.
_TIMES_MORE_MEMORY = 2


class FitScores(WorkKind):
    """Uploaded scores become a fitted calibrator, its report and its ONNX file."""

    def begin(self) -> Prepared | None:
        """Take a look: the test rows will judge."""
        with self.registry.write() as unit:
            unit.work.verify(self.claim)
            row = unit.calibrators.get(self.record_id)
            looks_before = unit.ledger.enter(row.sha256, row.id)
        limits = inspection_limits(self.settings, row.bytes)
        self.give("scores", row.sha256)
        options = ScoresOptions.model_validate(row.options)
        order = ScoresOrder(sha256=row.sha256, options=options, looks_before=looks_before)
        # Reading them is quick, judging 100,000 rows of 1,000 classes is not: the client is answered 202 by then.
        assert limits.memory is not None
        longer, more = _TIMES_LONGER * limits.seconds, _TIMES_MORE_MEMORY * limits.memory
        return self.prepared(order, replace(limits, seconds=longer, memory=more))

    def succeeded(self, result: JsonObject, folder: Path) -> None:
        """Keep the calibrator's file, its report, page and diagram."""
        found = ScoresResult.arrived(result)
        check_report(folder / found.report)
        files = {
            "onnx_sha256": found.onnx,
            "report_sha256": found.report,
            "page_sha256": found.page,
            "diagram_sha256": found.diagram,
        }
        with ExitStack() as stack:
            staged = {column: stack.enter_context(self.staged(folder / name)) for column, name in files.items()}
            unit = stack.enter_context(self.publishing())
            kept = {column: file.keep() for column, file in staged.items()}
            unit.calibrators.fitted(self.record_id, found.stored(), kept)
            require_answerable(calibrator_record(unit.calibrators.get(self.record_id)))

    def failed(self, error: RecordError) -> None:
        """There is no calibrator."""
        with self.publishing() as unit:
            unit.calibrators.fail(self.record_id, error.model_dump())
