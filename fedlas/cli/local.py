"""The work of a service in this process, with no server at all: `fedlas calibrate --local`, and predictions of a file.

Predictions of a calibrated ONNX file need ONNX Runtime and NumPy, and no PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlas.cli.failures import CommandError, ExitCode, Require, about, code_of_verdict
from fedlas.cli.jobs import show_report
from fedlas.cli.options import Request, file_of, says_unseen, write
from fedlas.cli.output import Json, Output, share, shows_progress
from fedlas.cli.rows import Rows
from fedlas.contract.events import Progress, ReportedEvent, WarningEvent
from fedlas.contract.requests import GateOptions
from fedlas.errors import BadDataset, UnsupportedModel
from fedlas.guarantees import Guarantees

if TYPE_CHECKING:
    import onnxruntime

    from fedlas.calibration import CalibrationOptions
    from fedlas.calibration.result import CalibrationResult

#: Fields of a job, and parameters of the two uploads, that are followed here.
_JOB = {
    "method",
    "hyperparameters",
    "max_cost_factor",
    "expected_accuracy",
    "accept_warnings",
    "seed",
    "class_priors",
    "outputs",
}
_MODEL = ("class_names", "features", "output", "task", "architecture")
_DATASET = ("split_shares", "missing")
_DTYPES = {
    **{f"tensor({name})": np.dtype(name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")},
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bool)": np.dtype(np.bool_),
}


def calibrate(
    output: Output,
    model: Path,
    data: Path,
    request: Request,
    out: Path | None,
    report: Path | None,
    require: Require,
) -> ExitCode:
    """Calibrate, write the files that were asked for, and show the report."""
    if strange := sorted(set(request.fields) - _JOB - {"budget", "gate"}):
        raise CommandError(f"{strange[0]} needs a service; it does not go with --local")
    source, reading = request.model_options(_MODEL), request.dataset_options(_DATASET)
    try:
        calibration = _calibrated(output, file_of(model), file_of(data), source, reading, request)
    except CommandError as error:
        if getattr(error.__cause__, "code", "") != "provenance_needed" or not says_unseen():
            raise
        unseen = {**reading, "seen_by_model": "no"}
        calibration = _calibrated(output, file_of(model), file_of(data), source, unseen, request)
    if out is not None:
        write(out, partial(calibration.save, outputs=request.fields.get("outputs", ())))
        output.note(
            f"{out}: {'the calibrated model' if calibration.serves == 'calibrated' else 'the model, unchanged'}"
        )
    if report is not None:
        write(report, calibration.save_report)
    document = calibration.report.as_dict()
    show_report(output, document, key=calibration.verdict)
    return code_of_verdict(document, require)


def _calibrated(
    output: Output, model: Path, data: Path, source: dict[str, Any], reading: dict[str, Any], request: Request
) -> CalibrationResult:
    with share(output) as moved, about(model, UnsupportedModel), about(data, BadDataset):
        moved("reading", None)
        import fedlas

        class Shown(fedlas.Observer):
            stage, fraction = "reading", 0.0

            def on_stage(self, stage: str) -> None:
                self.stage = stage
                moved(stage, self.fraction)

            def on_progress(self, progress: Progress) -> None:
                self.fraction = progress.fraction
                moved(f"{self.stage}: {progress.training}" if shows_progress() else self.stage, self.fraction)

            def on_event(self, event: ReportedEvent) -> None:
                if isinstance(event, WarningEvent):
                    output.note(f"warning: {event.data.message}")

        names = source.get("class_names")
        if isinstance(names, str):
            source = {**source, "class_names": [name.strip() for name in names.split(",")]}
        return fedlas.calibrate(
            fedlas.ModelSource(model, **source),
            fedlas.LabelledRows(data, **reading),
            options=_options(request),
            observer=Shown(),
        )


def _options(request: Request) -> CalibrationOptions:
    from fedlas.calibration import CalibrationOptions

    fields = {name: value for name, value in request.fields.items() if name != "outputs"}  # those are of the file
    limits = fields.pop("budget", {})
    try:
        budget: dict[str, Any] = {"budget": float(limits["minutes"])} if "minutes" in limits else {}
        if "candidates" in limits:
            budget["max_candidates"] = int(limits["candidates"])
        return CalibrationOptions(**fields | budget, gate=GateOptions.model_validate(fields.get("gate", {})))
    except (TypeError, ValueError) as error:
        raise CommandError(f"--job: {error}") from error


def predict(
    file: Path,
    rows: Rows,
    *,
    top_k: int | None = None,
    abstain_below: float | None = None,
    max_error: float | dict[str, float] | None = None,
    coverage: float | dict[str, float] | None = None,
    probabilities: bool = False,
    note: Callable[[str], None] = lambda sentence: None,
) -> Json:
    """The answer of a service with this file, without what its records know; raises CommandError.

    Args:
        note: called with what cannot be checked.
    """
    session = _opened(file)
    properties = session.get_modelmeta().custom_metadata_map
    names = json.loads(properties["class_names"])
    feeds = _feeds(session, _ordered(rows, json.loads(properties.get("columns", "null")), note))
    try:
        probs, confidences = session.run(["probabilities", "confidence"], feeds)
    except Exception as error:
        raise CommandError(f"{file} refuses these rows: {str(error).splitlines()[0]}") from error
    guarantees = Guarantees.from_dict(json.loads(properties["guarantees"])) if "guarantees" in properties else None
    threshold, sets = _promised(file, guarantees, probs, abstain_below, max_error, coverage)
    answers = []
    for number, (row, confidence) in enumerate(zip(probs, confidences, strict=True)):
        best = int(row.argmax())
        abstains = bool(confidence < np.float32(threshold))
        answer = {"label": names[best], "index": best, "confidence": float(confidence), "abstain": abstains}
        if top_k is not None:
            answer["top_k"] = [
                {"label": names[k], "index": int(k), "confidence": float(row[k])} for k in np.argsort(-row)[:top_k]
            ]
        if sets is not None:
            answer["prediction_set"] = [names[k] for k in np.argsort(-row) if sets[number, k]]
        if probabilities:
            answer["probabilities"] = row.tolist()
        answers.append(answer)
    model = {"id": str(file), "name": file.stem, "version": 1, "calibrated": True}
    return {"model": model, **({"class_names": names} if probabilities else {}), "predictions": answers}


def _opened(file: Path) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # files of earlier versions have an input with a default, of which it warns
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CommandError(f"{file} cannot be opened by ONNX Runtime: {str(error).splitlines()[0]}") from error
    if (
        not {"probabilities", "confidence"} <= {output.name for output in session.get_outputs()}
        or "class_names" not in session.get_modelmeta().custom_metadata_map
    ):
        raise CommandError(f"{file} is not a calibrated file: it has no output 'probabilities'; calibrate it first")
    return session


def _ordered(rows: Rows, columns: list[str] | None, note: Callable[[str], None]) -> Rows:
    """Rows that name their columns in the order of the model's, where its file names them."""
    if isinstance(rows.inputs, list) and rows.inputs and isinstance(rows.inputs[0], dict):
        if columns is None or any(not isinstance(row, dict) or set(row) != set(columns) for row in rows.inputs):
            raise CommandError(f"rows are objects, and the file's columns are {columns or 'without names: send lists'}")
        return Rows([[row[name] for name in columns] for row in rows.inputs])
    if rows.header is None or not isinstance(rows.inputs, list):
        return rows
    if columns is None:
        note("the model does not name its columns, so those of the csv file are used in their order")
        return rows
    if sorted(columns) != sorted(rows.header):
        missing, strange = sorted(set(columns) - set(rows.header)), sorted(set(rows.header) - set(columns))
        differences = "; ".join(
            f"{word} {', '.join(names)}" for word, names in (("missing", missing), ("leave out", strange)) if names
        )
        raise CommandError(f"the columns of the csv file are not the model's: {differences or 'one occurs twice'}")
    places = [rows.header.index(name) for name in columns]
    return Rows([[row[place] for place in places] for row in rows.inputs])


def _feeds(session: onnxruntime.InferenceSession, rows: Rows) -> dict[str, NDArray[Any]]:
    inputs = {one.name: one for one in session.get_inputs()}
    given = rows.inputs if isinstance(rows.inputs, dict) else dict.fromkeys(list(inputs)[:1], rows.inputs)
    if set(given) != set(inputs):
        raise CommandError(f"the file has the inputs {', '.join(inputs)}; given are {', '.join(map(str, given))}")
    feeds = {}
    for name, one in inputs.items():
        try:
            feeds[name] = np.asarray(given[name]).astype(_DTYPES[one.type])
        except (ValueError, TypeError):
            raise CommandError(f"input {name!r}: the rows are no numbers of one shape") from None
        needed, shape = one.shape[1:], list(feeds[name].shape[1:])
        if len(needed) != len(shape) or any(isinstance(n, int) and n != f for n, f in zip(needed, shape, strict=True)):
            raise CommandError(f"input {name!r}: found rows of shape {shape}; expected rows of shape {needed}")
    return feeds


def _promised(
    file: Path,
    guarantees: Guarantees | None,
    probs: NDArray[np.float32],
    abstain_below: float | None,
    max_error: float | dict[str, float] | None,
    coverage: float | dict[str, float] | None,
) -> tuple[float, NDArray[np.bool_] | None]:
    """The confidence from which rows are answered, and the sets (N, K) where they are asked for."""
    if max_error is None and coverage is None:
        return abstain_below or 0.0, None
    if guarantees is None:
        raise CommandError(f"{file} promises nothing: its job had no guarantee rows")
    try:
        threshold = 0.0 if max_error is None else guarantees.threshold_for(max_error)
        sets = None if coverage is None else guarantees.prediction_sets(probs, coverage)
    except ValueError as error:
        raise CommandError(str(error)) from error
    return max(threshold, abstain_below or 0.0), sets
