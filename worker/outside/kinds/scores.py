"""Scores without a model meet the registry: they become a calibrator, or an error that says what is wrong with them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from service.registry.presenters import calibrator_record
from worker.outside.kinds.base import Json, Prepared, WorkKind, answerable

#: How many times as long as an inspection it may take.
_PATIENCE = 5
#: What the child has written, by the column that names it.
_FILES = {
    "onnx_sha256": "onnx",
    "report_sha256": "report",
    "page_sha256": "page",
    "diagram_sha256": "diagram",
}


class FitScores(WorkKind):
    """Uploaded scores become a fitted calibrator, its report and its ONNX file."""

    name = "fit_scores"

    def begin(self) -> Prepared | None:
        """Take a look: the test rows will judge."""
        with self.registry.write() as unit:
            unit.work.prove(self.claim)
            row = unit.calibrators.get(self.record_id)
            looks_before = unit.ledger.enter(row.sha256, row.id)
        limits = self.inspection_limits(row.bytes)
        self.give("file", row.sha256)
        spec = {"sha256": row.sha256, "options": row.options, "looks_before": looks_before}
        # Reading them is quick, judging 100,000 rows of 1,000 classes is not: the client is answered 202 by then.
        return self.order(spec, replace(limits, seconds=_PATIENCE * limits.seconds))

    def succeeded(self, result: Json, folder: Path) -> None:
        """Keep the calibrator's file, its report, page and diagram."""
        with ExitStack() as stack:
            staged = {column: stack.enter_context(self.staged(folder / result[key])) for column, key in _FILES.items()}
            unit = stack.enter_context(self.publishing())
            unit.calibrators.fitted(self.record_id, result, {column: file.keep() for column, file in staged.items()})
            answerable(calibrator_record(unit.calibrators.get(self.record_id)))

    def failed(self, error: Json) -> None:
        """There is no calibrator."""
        with self.publishing() as unit:
            unit.calibrators.fail(self.record_id, error)
