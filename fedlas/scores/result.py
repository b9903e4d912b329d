"""The result of calibrating scores in this process: a report with its promise, probabilities, and files of both."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fedlas.contract.scores import ScorePromise, ScoreReport, ScoreVerdict, WantedPromise
from fedlas.conversion import dataset_file
from fedlas.conversion.score_columns import score_columns
from fedlas.data.dataset import Array
from fedlas.data.roles import RoleNames
from fedlas.errors import BadDataset, ConversionError
from fedlas.extras import require
from fedlas.guarantees.accepted_scores import accepted
from fedlas.metrics.statistics import Floats
from fedlas.scores.calibration import ScoreCalibration, calibrate_table
from fedlas.scores.curve import sigmoid
from fedlas.scores.page import score_html
from fedlas.scores.table import read_columns, table_of


@dataclass(frozen=True, repr=False)
class ScoreResult:
    """Result of `fedlas.calibrate` for one score or several signals."""

    _calibration: ScoreCalibration
    _values: Floats

    @property
    def report(self) -> ScoreReport:
        """All evidence (`fedlas.contract.scores.ScoreReport`); a notebook shows it as a page."""
        return self._calibration.report

    @property
    def promise(self) -> ScorePromise:
        """The threshold with its promise, or why there is none."""
        return self.report.promise

    @property
    def verdict(self) -> ScoreVerdict:
        """`post_hoc`: shown to be better than the reference; `unchanged`, or `undetermined`."""
        return self.report.verdict

    @property
    def summary(self) -> tuple[str, ...]:
        """The promise and the verdict in sentences."""
        return tuple(self.report.summary)

    def predict(self, scores: Any) -> Floats:
        """The probability (N,) that each row is right; a missing score has that of rows without one.

        Args:
            scores: (N,), or a mapping or frame of the signals; other columns are passed over.
        """
        return sigmoid(self._calibration.model.log_odds(self._rows(scores)))

    def accept(self, scores: Any, *, slices: Any = None) -> NDArray[np.bool_]:
        """True (N,) for each row that the promise covers: none where none was made, and no score of another scale.

        Args:
            slices: (N,) the slice of each row: it is accepted by the threshold of that slice, if it has one.
        """
        rows, serving = self._rows(scores), self._calibration.serving
        position = rows[:, 0] if len(serving.signals) == 1 else sigmoid(self._calibration.model.log_odds(rows))
        return accepted(position, serving, slices)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the map as an ONNX file: scores in, `probabilities` and `confidence` out."""
        require("library", "onnx", "onnxruntime")
        from fedlas.scores.graph import write

        write(self._calibration, Path(path), self._values)
        return Path(path)

    def save_report(self, path: str | PathLike[str]) -> Path:
        """Write the report as a page (`.html`), or else as a document of JSON."""
        page = Path(path).suffix == ".html"
        Path(path).write_text(score_html(self.report) if page else self.report.model_dump_json(), encoding="utf-8")
        return Path(path)

    def __repr__(self) -> str:
        return "\n".join(self.summary)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that neither its style nor the notebook's reaches the other."""
        page = html.escape(score_html(self.report), quote=True)
        return f'<iframe sandbox="" style="width:100%;height:720px;border:0;background:white" srcdoc="{page}"></iframe>'

    def _rows(self, scores: Any) -> Floats:
        """Values (N, S) of the signals, in their order."""
        columns, signals = score_columns(scores), self._calibration.model.signals
        if unusable := [name for name in signals if name not in columns or columns[name].ndim != 1]:
            raise BadDataset("no_scores", f"expected one number a row for {', '.join(signals)}; see '{unusable[0]}'")
        return np.column_stack([columns[name].astype(np.float64) for name in signals])


def columns_in(path: str | PathLike[str], roles: RoleNames | None = None) -> dict[str, Array] | None:
    """The columns of a file by name; None where it has scores of several classes, or is no table at all.

    Raises:
        ConversionError, BadDataset: the file cannot be read.
    """
    try:
        return read_columns(dataset_file(Path(path), folder=Path()).path, roles)
    except BadDataset as error:
        if error.code not in ("unsupported_format", "unsafe_format"):  # those of models and archives
            raise
        return None


def fit_scores(
    scores: Any,
    labels: Any = None,
    *,
    promise: WantedPromise | Mapping[str, float] | None = None,
    groups: Any = None,
    weights: Any = None,
    slices: Any = None,
    class_names: Sequence[str] | None = None,
    roles: RoleNames | None = None,
    valid_for: str | None = None,
) -> ScoreResult:
    """Calibrate one score or several signals; see `fedlas.calibrate`.

    Args:
        roles: role → column, where names are others than those of the roles.
    """
    try:
        wanted = WantedPromise.model_validate(promise or {})
    except ValidationError as error:
        raise ConversionError("bad_promise", f"promise: {error.errors(include_url=False)[0]['msg']}") from error
    column, slices = (slices, None) if isinstance(slices, str) else (None, slices)
    digests = {}
    if isinstance(scores, str | PathLike):
        if (scores := columns_in(path := scores, roles)) is None:
            raise BadDataset("no_scores", f"{path} has no column 'score' and none 'signal_…'")
        with Path(path).expanduser().open("rb") as file:
            digests = {"scores_sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    table = table_of(
        score_columns(scores, label=labels, group=groups, weight=weights, slice=slices),
        roles=roles,
        outcomes=None if class_names is None else tuple(class_names),
        slice=column,
    )
    return ScoreResult(calibrate_table(table, wanted, valid_for=valid_for, digests=digests), table.values)
