"""The calibration of a network or of scores, inside the sandbox: files in, files out around `fedlas.calibration`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from fedlas.calibration import CalibrationOptions, ScoredRows, calibrate_scores
from fedlas.contract.profiles import (
    FILE_PROFILE,
    ClassPriors,
    DecisionThresholds,
    FittedOn,
    GuaranteesDocument,
    ModelProfile,
    OutputSpec,
    PriorsInput,
    Reading,
    TypicalitySpec,
)
from fedlas.contract.report import Named, Report, Subject
from fedlas.data import SPLITS
from fedlas.data.dataset import Array
from fedlas.data.duplicates import SeenRows
from fedlas.data.labels import as_text
from fedlas.data.scores import read_scores
from fedlas.errors import BadDataset
from fedlas.export.scores_graph import priors_input
from fedlas.progress import JobProgress
from fedlas.report import reliability_svg, report_html
from fedlas.report.provenance import rfc3339
from fedlas.scores.calibration import calibrate_table
from fedlas.scores.graph import profile_of, write
from fedlas.scores.page import score_html, score_svg
from fedlas.scores.table import read_columns, table_of
from service.predict.formats.result_tables import CLASS_NAMES, lists, plain, write_results
from worker.documents import JobOrder, JobResult, ScoresOrder, ScoresProfile, ScoresResult
from worker.inside.channel import Emit, Files
from worker.inside.job_events import JobEvents, notice_documents

if TYPE_CHECKING:  # scores are calibrated without PyTorch
    from fedlas.calibration import Calibration
    from fedlas.importers import GraphClassifier

#: Sections of a report, which is long, that a calibrator's record has.
_SHOWN = (
    *("verdict", "serves", "significant", "beats_simpler", "summary", "metrics", "differences"),
    *("num_test_rows", "confidence_level"),
    *("gate", "looks", "guarantees", "class_priors", "seed", "digests", "versions"),
)
_FILE = "calibrated.onnx"
_SERVED = "served.onnx"
_REPORT = "report.json"
_PAGE = "report.html"
_DIAGRAM = "reliability.svg"
_SEEN_ROWS = "seen_rows.npz"
_PREDICTIONS = "predictions.parquet"
#: A page of the API reads whole groups of that file.
_GROUP_BYTES = 1 << 20
#: Whose rows train a network that is served.
_TRAINS = ("train", "calibration")


def calibrate(order: JobOrder, files: Files, folder: Path, emit: Emit) -> JobResult:
    """Run one job and return what came of it; the file, its served copy and the report lie in `folder`."""
    progress = JobProgress()
    with JobEvents(emit, progress) as tell:
        tell.on_stage("inspecting")
        return _calibrated(order, files, folder, emit, progress, tell)


def _calibrated(
    order: JobOrder, files: Files, folder: Path, emit: Emit, progress: JobProgress, tell: JobEvents
) -> JobResult:
    from fedlas.calibration.network import ReportHeader, calibrate
    from worker.inside.model_loading import asked, digests, journal_of, open_job, repeat_exactly, seen_rows

    repeat_exactly()
    classifier, dataset, options = open_job(order, files, folder)
    model, rows = (Named(name=one.name, id=one.id, sha256=one.sha256) for one in (order.model, order.dataset))
    calibration = calibrate(
        classifier,
        dataset,
        options,
        header=ReportHeader(
            asked(order.request),
            digests(order),
            Subject(model=model, dataset=rows, job_id=order.job_id, created_at=rfc3339(order.created_at)),
        ),
        journal=journal_of(order, files, folder, emit),
        progress=progress,
        observer=tell,
    )
    tell.on_stage("exporting")
    exported = None if calibration.finalist is None else _export(calibration, classifier, folder, order)
    trained = calibration.verdict.verdict == "trained"
    if trained:
        rows_seen = np.concatenate([dataset.rows(split) for split in _TRAINS])
        before = seen_rows(order, files)
        before.union(SeenRows.of(dataset.inputs, rows_seen, key=before.key)).save(folder / _SEEN_ROWS)
    _write_report(calibration.report, folder)
    _write_predictions(calibration, folder / _PREDICTIONS)
    tell.on_stage("publishing")
    return JobResult(
        verdict=calibration.verdict.verdict,
        serves=calibration.verdict.serves,
        significant=bool(calibration.verdict.significant),
        beats_simpler=calibration.verdict.beats_simpler,
        calibrated=exported,
        model=_FILE,
        served=_SERVED,
        report=_REPORT,
        page=_PAGE,
        diagram=_DIAGRAM,
        predictions=_PREDICTIONS,
        seen_rows=_SEEN_ROWS if trained else None,
        adjustments=notice_documents(calibration.adjustments),
    )


def fit_scores(order: ScoresOrder, files: Files, folder: Path, emit: Emit) -> ScoresResult:
    """Calibrate scores; `calibrator.onnx`, the report, its page and diagram lie in `folder`."""
    if (columns := read_columns(files["scores"], order.options.roles)) is not None:
        return _fit_score(order, columns, folder)
    given = order.options.model_dump(include={"class_names", "roles", "split_shares"})
    dataset = read_scores(files["scores"], **given)
    options = CalibrationOptions(
        method=order.options.method,
        class_priors=order.options.class_priors,
        evaluations_before=order.looks_before,
        accept_warnings=order.options.accept_warnings,
    )
    calibration = calibrate_scores(
        ScoredRows.of(dataset),
        options,
        digests={"scores_sha256": order.sha256},
        subject=Subject(
            model=None,
            dataset=Named(name=order.name, id=order.id, sha256=order.sha256),
            job_id=None,
            created_at=rfc3339(order.created_at),
        ),
    )
    error = calibration.export(folder / "calibrator.onnx", metadata={"fedlas.scores_sha256": order.sha256})
    _write_report(calibration.report, folder)
    report = calibration.report.as_dict()
    excerpt = {
        **{name: report[name] for name in _SHOWN},
        "num_calibration_rows": len(dataset.rows("calibration")),
        "methods": report["recipe"]["methods"],
        "max_probability_error": error,
    }
    return ScoresResult(
        method=calibration.calibrator.name,
        parameters=calibration.calibrator.parameters(),
        excerpt=excerpt,
        profile=ScoresProfile(
            input=calibration.rows.kind,
            num_samples=len(dataset),
            num_classes=len(dataset.class_names),
            class_names=dataset.class_names,
            warnings=notice_documents(calibration.warnings),
            priors_input=PriorsInput.of(folder / "calibrator.onnx", priors_input(len(dataset.class_names))),
        ),
        onnx="calibrator.onnx",
        report=_REPORT,
        page=_PAGE,
        diagram=_DIAGRAM,
    )


def _fit_score(order: ScoresOrder, columns: Mapping[str, Array], folder: Path) -> ScoresResult:
    """Calibrate one score or several signals; the same files."""
    options = order.options
    if options.method != "auto":
        message = f"method {options.method!r} is for logits and probabilities; a score is fitted by all that suit it"
        raise BadDataset("unsuitable_method", message)
    table = table_of(columns, roles=options.roles, outcomes=options.class_names, slice=options.slice)
    given = [name for name in ("class_priors", "split_shares") if getattr(options, name) is not None]
    if given:
        unused = f"{' and '.join(given)}: for logits and probabilities, and not used here."
        table = replace(table, warnings=(*table.warnings, unused))
    calibration = calibrate_table(
        table,
        options.promise,
        valid_for=options.valid_for,
        looks_before=order.looks_before,
        earlier=order.earlier,
        digests={"scores_sha256": order.sha256},
    )
    error = write(calibration, folder / "calibrator.onnx", table.values)
    report = calibration.report
    (folder / _REPORT).write_text(report.model_dump_json())
    (folder / _PAGE).write_text(score_html(report))
    (folder / _DIAGRAM).write_text(score_svg(report))
    return ScoresResult(
        method="score" if len(report.signals) == 1 else "signals",
        parameters={"knots": len(report.curve), "influence": report.influence},
        excerpt={**report.model_dump(mode="json", exclude={"curve", "counts"}), "max_probability_error": error},
        profile=ScoresProfile(
            input="score" if len(report.signals) == 1 else "signals",
            num_samples=report.num_rows,
            num_classes=2,
            class_names=report.outcomes,
            promise=report.promise,
            verdict=report.verdict,
            needed_labels=report.needed_labels,
        ),
        model=profile_of(calibration),
        onnx="calibrator.onnx",
        report=_REPORT,
        page=_PAGE,
        diagram=_DIAGRAM,
    )


def _export(calibration: Calibration, upload: GraphClassifier, folder: Path, order: JobOrder) -> ModelProfile:
    """Write the file with the outputs that were asked for, and the served copy, which has all."""
    from fedlas.export.graph import add_properties
    from fedlas.importers.onnx.train.adjustments import CLASSES_NUMBERED
    from worker.inside.serving_cost import measured, time_answers

    file, copy, asked = folder / _FILE, folder / _SERVED, order.request.outputs
    finalist, names, profile = calibration.finalist, calibration.dataset.class_names, order.model.profile
    assert finalist is not None
    deployment = calibration.deployment
    assert deployment is not None
    metadata = {"fedlas.job_id": order.job_id, "fedlas.parent_sha256": order.model.sha256}
    written, typicality = calibration.export(copy, metadata=metadata), calibration.typicality
    calibration.export(file, outputs=asked, metadata=metadata)
    cost = measured(copy, upload.inputs, upload.lengths, written.cost)
    times = time_answers(upload, file, list(calibration.dataset.select("test")[0].values()))
    changed = {
        "format": "onnx",
        "warnings": [],
        "output": OutputSpec(name="probabilities", kind="probabilities"),
        "class_names": names,
        "class_names_given": profile.class_names_given or names != profile.class_names,
        "adjustments": [n for n in profile.adjustments if n.code != CLASSES_NUMBERED or names == profile.class_names],
        "columns": calibration.dataset.columns,
        "reading": calibration.dataset.reading and Reading.model_validate(calibration.dataset.reading),
        "guarantees": calibration.guarantees and GuaranteesDocument.model_validate(calibration.guarantees.as_dict()),
        "typicality": typicality and TypicalitySpec(score=typicality.score),
        "class_priors": ClassPriors.model_validate(deployment.priors.as_dict(names)),
        "decisions": DecisionThresholds(
            thresholds=dict(zip(names, deployment.default_thresholds.tolist(), strict=True))
        ),
        "cost": written.cost,
        "trained_on": [
            *profile.trained_on,
            _fitted_on(calibration, order, trained=calibration.verdict.verdict == "trained"),
        ],
    }
    served = profile.model_copy(update=changed)
    lacking: dict[str, object] = {} if "typicality" in asked else {"typicality": None}
    if "features" not in asked:
        lacking["features"] = profile.features.changed(dim=0)
    add_properties(copy, {FILE_PROFILE: served.in_file()})
    add_properties(file, {FILE_PROFILE: served.model_copy(update=lacking).in_file()})
    timed = {"cost": cost, "cost_factor": round(times[0].us / times[0].uploaded_us, 2), "answer_times": times}
    return served.model_copy(update=timed | {"priors_input": PriorsInput.of(file, written.priors_input)})


def _fitted_on(calibration: Calibration, order: JobOrder, *, trained: bool) -> FittedOn:
    calibrated_on = [split for split, count in calibration.calibrated_on.items() if count]
    network = [split for split in _TRAINS if trained and len(calibration.dataset.rows(split))]
    return FittedOn(
        dataset_id=order.dataset.id,
        sha256=order.dataset.sha256,
        splits=[split for split in SPLITS if split in {*calibrated_on, *network}],
        network=network,
    )


def _write_report(report: Report, folder: Path) -> None:
    (folder / _REPORT).write_text(json.dumps(report.as_dict(), allow_nan=False))
    (folder / _PAGE).write_text(report_html(report))
    (folder / _DIAGRAM).write_text(reliability_svg(report))


def _write_predictions(calibration: Calibration, file: Path) -> None:
    """Leave what is served on the test rows, in the order of the owner's file; metadata has the classes' names."""
    dataset, probs, rows = calibration.dataset, calibration.test_probs, calibration.dataset.rows("test")
    columns = {"row": plain(dataset.in_file(rows).astype(np.int64))}
    if dataset.ids is not None:
        ids = dataset.ids[rows]
        columns["id"] = pa.array(as_text(ids) if ids.dtype.kind == "S" else ids, from_pandas=True)
    names = [name.encode() for name in dataset.class_names]
    ends = pa.py_buffer(np.cumsum([0, *map(len, names)], dtype=np.int32))
    texts = pa.StringArray.from_buffers(len(names), ends, pa.py_buffer(b"".join(names)))
    columns["label"] = pa.DictionaryArray.from_arrays(plain(dataset.targets[rows].astype(np.int32)), texts)
    columns["probabilities"] = lists(probs)
    table = pa.table(columns, metadata={CLASS_NAMES: json.dumps(dataset.class_names)})
    step = max(1, _GROUP_BYTES // (4 * probs.shape[1]))
    write_results(file, (table.slice(first, step) for first in range(0, len(rows), step)))
