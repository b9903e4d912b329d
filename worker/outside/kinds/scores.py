"""Scores without a model meet the registry: they become a calibrator, or an error that says what is wrong with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from service.registry.presenters import calibrator_record
from worker.outside.kinds.base import Json, Prepared, WorkKind, answerable

#: How many times as long as an inspection it may take.
_PATIENCE = 5


class FitScores(WorkKind):
    """Uploaded scores become a fitted calibrator, its report and its ONNX file."""

    name = "fit_scores"

    def begin(self) -> Prepared | None:
        """Nothing to note: it is running from the start."""
        with self.registry.read() as unit:
            row = unit.calibrators.get(self.record_id)
        limits = self.inspection_limits(row.bytes)
        self.give("file", row.sha256)
        spec = {"sha256": row.sha256, "options": row.options}
        # Reading them is quick, judging 100,000 rows of 1,000 classes is not: the client is answered 202 by then.
        return self.order(spec, replace(limits, seconds=_PATIENCE * limits.seconds))

    def succeeded(self, result: Json, folder: Path) -> None:
        """Keep the file."""
        with self.staged(folder / result["onnx"]) as onnx, self.publishing() as unit:
            unit.calibrators.fitted(self.record_id, result, onnx_sha256=onnx.keep())
            answerable(calibrator_record(unit.calibrators.get(self.record_id)))

    def failed(self, error: Json) -> None:
        """There is no calibrator."""
        with self.publishing() as unit:
            unit.calibrators.fail(self.record_id, error)
