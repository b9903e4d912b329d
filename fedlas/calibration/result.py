"""The result of a calibration in this process: a verdict and its report, a model, and files of both."""

from __future__ import annotations

import errno
import html
import json
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlas.contract.records import Served
from fedlas.contract.report import Report
from fedlas.errors import ConversionError
from fedlas.report import report_html

if TYPE_CHECKING:
    from fedlas.calibration.calibrated_model import CalibratedModel
    from fedlas.calibration.model_scores import Answering
    from fedlas.calibration.network import Calibration
    from fedlas.calibration.scores import ScoresCalibration
    from fedlas.importers import GraphClassifier

_FRAME_HEIGHT = 720


@dataclass(frozen=True, repr=False)
class CalibrationResult:
    """Result of `fedlas.calibrate`.

    Attributes:
        report: all evidence (`fedlas.contract.report.Report`); a notebook shows it as a page.
        notes: what was done to the objects that were given.
    """

    report: Report
    notes: tuple[str, ...]
    _write: Callable[[Path, Collection[str]], object]
    _make_model: Callable[[], CalibratedModel]

    @property
    def verdict(self) -> str:
        """`trained`, `post_hoc`, `unchanged` or `undetermined`: what `model` is."""
        return self.report.verdict

    @property
    def serves(self) -> Served:
        """`calibrated` where `model` differs from the one that was given, else `uploaded`."""
        return self.report.serves

    @property
    def significant(self) -> bool:
        """True where the test rows show that `model` is better than the one that was given."""
        return bool(self.report.significant)

    @property
    def beats_simpler(self) -> bool | None:
        """True if test rows also show it to beat every simpler model that was made; None for a simpler model."""
        return self.report.beats_simpler

    @property
    def summary(self) -> tuple[str, ...]:
        """The verdict in sentences."""
        return self.report.summary

    @cached_property
    def model(self) -> Any:
        """A `torch.nn.Module` that maps inputs to calibrated logits (N, K), with `predict_proba` for arrays.

        Where the verdict is `unchanged` or `undetermined`, it is the model that was given. Of scores alone it is the
        calibrator, which maps scores to calibrated log-probabilities.
        """
        return self._make_model()

    def save(self, path: str | Path, *, outputs: Collection[str] = ()) -> Path:
        """Write `model` as an ONNX file, which ONNX Runtime runs and the service takes; of scores, the calibrator.

        Args:
            outputs: what the file computes beside `logits`, `probabilities` and `confidence`: `features`, `typicality`.
        """
        file = _target(path)
        if file.suffix != ".onnx":
            raise ConversionError("bad_target", f"a model is saved as .onnx, not as {file.name!r}")
        self._write(file, outputs)
        return file

    def save_report(self, path: str | Path) -> Path:
        """Write the report as a page (`.html`) or as a document (`.json`)."""
        file = _target(path)
        if file.suffix == ".html":
            file.write_text(report_html(self.report), encoding="utf-8")
        elif file.suffix == ".json":
            file.write_text(json.dumps(self.report.as_dict(), allow_nan=False, indent=1), encoding="utf-8")
        else:
            raise ConversionError("bad_target", f"a report is saved as .html or .json, not as {file.name!r}")
        return file

    def __repr__(self) -> str:
        return f"CalibrationResult(verdict={self.verdict!r}, serves={self.serves!r}, significant={self.significant})"

    def __str__(self) -> str:
        return "\n".join([f"verdict: {self.verdict}", *self.report.advice, *self.report.warnings])

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that neither its style nor the notebook's reaches the other."""
        page = html.escape(report_html(self.report), quote=True)
        style = f"width:100%;height:{_FRAME_HEIGHT}px;border:0;background:white"
        return f'<iframe title="Calibration report" sandbox="" style="{style}" srcdoc="{page}"></iframe>'

    @classmethod
    def of_network(
        cls, calibration: Calibration, classifier: GraphClassifier, file: Path, *, notes: Sequence[str]
    ) -> CalibrationResult:
        """Result for a network; `classifier` is the model as it was given, in `file`."""

        def write(path: Path, outputs: Collection[str]) -> None:
            if calibration.written is None:
                shutil.copyfile(file, path)
            else:
                calibration.export(path, outputs=outputs)

        def make() -> CalibratedModel:
            from fedlas.calibration.calibrated_model import CalibratedNetwork
            from fedlas.importers import load_onnx

            served = classifier
            if calibration.written is not None:
                calibration.export(file.with_name("served.onnx"))
                served = load_onnx(file.with_name("served.onnx"))
            return CalibratedNetwork(served, calibration.dataset.class_names, calibration.dataset.columns)

        return cls(calibration.report, tuple(notes), write, make)

    @classmethod
    def of_scores(
        cls, calibration: ScoresCalibration, folder: Path, *, notes: Sequence[str], answering: Answering | None = None
    ) -> CalibrationResult:
        """Result for scores, with the model behind them where there is one."""

        left = answering is not None and calibration.verdict.serves != "calibrated"

        def make() -> Any:
            from fedlas.calibration.calibrated_model import CalibratedScores, ScoresCalibrator

            names, calibrator = calibration.rows.dataset.class_names, None
            if not left:
                calibration.export(folder / "calibrator.onnx")
                calibrator = ScoresCalibrator(folder / "calibrator.onnx", names)
            return (
                calibrator
                if answering is None
                else CalibratedScores(answering, calibration.rows.kind, names, calibrator)
            )

        def write(path: Path, _: Collection[str]) -> None:
            if left:
                raise ConversionError("not_a_file", "the model stays as it is, and it cannot be written as a file")
            calibration.export(path)

        return cls(calibration.report, tuple(notes), write, make)


def _target(path: str | Path) -> Path:
    file = Path(path).expanduser()
    if file.is_dir():
        raise ConversionError("bad_target", f"{str(path)!r} is a directory: name a file in it")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConversionError("cannot_write", f"{str(path)!r} cannot be written: {error.strerror}") from error
    return file
