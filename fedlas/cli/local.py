"""`fedlas calibrate --local`: the job of a service in this process, from files to files, with no server at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlas.cli.exits import ExitCode, Require, code_of_verdict
from fedlas.cli.failures import CommandError, about
from fedlas.cli.files import file_of, write
from fedlas.cli.options import upload_options
from fedlas.cli.orders import Order
from fedlas.cli.output import Output
from fedlas.cli.progress import share
from fedlas.cli.reports import show

if TYPE_CHECKING:
    from fedlas.calibration import Calibration, CalibrationOptions
    from fedlas.data import Dataset
    from fedlas.importers import GraphClassifier
    from fedlas.race.results import RaceProgress

#: Fields of a job that `CalibrationOptions` has, too.
_JOB = {"method", "hyperparameters", "max_cost_factor", "expected_accuracy", "accept_warnings", "seed", "class_priors"}
_STAGES = {"evaluating": "evaluating the model", "training": "training", "calibrating": "calibrating and judging"}


def calibrate(
    output: Output,
    model: Path,
    data: Path,
    order: Order,
    out: Path | None,
    report: Path | None,
    require: Require | None,
) -> ExitCode:
    """Calibrate, write the files that were asked for, and show the report."""
    _check(order)
    file_of(model), file_of(data)
    with tempfile.TemporaryDirectory(prefix="fedlas-") as folder:
        found = _calibrated(output, model, data, order, Path(folder))
        if out is not None:
            write(out, found.export if found.written is not None else lambda file: shutil.copyfile(model, file))
            output.note(f"{out}: {'the model as it came' if found.written is None else 'the calibrated model'}")
    document = found.report.as_dict()
    if report is not None:
        _save(found, document, report)
    show(output, document, key=found.verdict.verdict)
    return code_of_verdict(document, require or Require.promoted)


def _calibrated(output: Output, model: Path, data: Path, order: Order, folder: Path) -> Calibration:
    with share(output) as moved:
        moved("reading model and dataset", None)
        from fedlas.calibration import calibrate
        from fedlas.report import Named, Subject
        from fedlas.report.subject import rfc3339

        options = _options(order)
        classifier, dataset = _opened(model, data, order, folder)
        stage = ""

        def on_stage(name: str) -> None:
            nonlocal stage
            stage = name
            moved(_STAGES[name], None)

        def on_progress(at: RaceProgress) -> None:
            moved(f"{stage}: {at.name}" if moved.shows_candidates else _STAGES[stage], at.fraction)

        digests = {"model_sha256": _sha256(model), "dataset_sha256": _sha256(data)}
        of_model, of_data = (
            Named(model.name, None, digests["model_sha256"]),
            Named(data.name, None, digests["dataset_sha256"]),
        )
        return calibrate(
            classifier,
            dataset,
            options,
            request={
                **order.fields,
                "method": options.method,
                "budget": {"minutes": options.budget_seconds / 60, "candidates": options.max_candidates},
                "seed": options.seed,
            },
            digests=digests,
            subject=Subject(of_model, of_data, None, rfc3339(datetime.now(UTC))),
            on_stage=on_stage,
            on_progress=on_progress,
            on_notice=lambda notice: output.note(f"warning: {notice.message}"),
        )


def _check(order: Order) -> None:
    """Raise where something is asked that only a service does."""
    if strange := sorted(set(order.fields) - _JOB - {"budget", "gate"}):
        raise CommandError(f"{strange[0]} needs a service; it does not go with --local")


def _options(order: Order) -> CalibrationOptions:
    from fedlas.calibration import CalibrationOptions

    fields = dict(order.fields)
    budget, gate = fields.pop("budget", {}), fields.pop("gate", {})
    try:
        limits: dict[str, Any] = {"budget_seconds": 60 * float(budget["minutes"])} if "minutes" in budget else {}
        if "candidates" in budget:
            limits["max_candidates"] = int(budget["candidates"])
        return CalibrationOptions(**fields, **gate, **limits)
    except (TypeError, ValueError) as error:
        raise CommandError(f"--job: {error}") from error


def _opened(model: Path, data: Path, order: Order, folder: Path) -> tuple[GraphClassifier, Dataset]:
    """The network, and the rows in its inputs and classes."""
    from fedlas.data import align, read_dataset
    from fedlas.data.casting import InputSpec

    how = upload_options(order.model_option, _classifier, "--model-option")
    names, columns = how.pop("class_names", None), how.pop("columns", None)
    with about(model):
        classifier = _classifier(model, **how)
    reading = upload_options(order.dataset_option, read_dataset, "--dataset-option") | order.reading
    with about(data):
        dataset = read_dataset(data, **reading, scratch=folder)
    labels = classifier.class_labels
    dataset = align(
        dataset,
        model_inputs=[InputSpec(name=one.name, dtype=one.dtype, shape=list(one.shape)) for one in classifier.inputs],
        num_classes=classifier.num_classes,
        class_names=_listed(names) or list(labels or map(str, range(classifier.num_classes))),
        # 0, 1, … are the numbers of an encoder, no names that anybody gave
        class_names_given=bool(names) or labels not in (None, tuple(map(str, range(classifier.num_classes)))),
        columns=_listed(columns),
        scratch=folder,
    )
    return classifier, dataset


def _classifier(
    file: Path,
    *,
    output: str | None = None,
    features: str | None = None,
    task: str | None = None,
    architecture: str | None = None,
    num_classes: str | None = None,
    class_names: object = None,
    columns: object = None,
) -> GraphClassifier:
    """The network of a file, by the parameters that its upload would have."""
    from fedlas.importers import load_architecture, load_onnx

    if architecture is None:
        return load_onnx(file, output=output, features=features, task=task)
    return load_architecture(
        file, architecture=architecture, num_classes=None if num_classes is None else int(num_classes)
    )


def _listed(names: str | list[str] | None) -> list[str] | None:
    """Names with commas between them, or a list."""
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else names


def _save(found: Calibration, document: Any, report: Path) -> None:
    from fedlas.report import report_html

    page = report_html(found.report) if report.suffix == ".html" else json.dumps(document, allow_nan=False)
    write(report, lambda file: file.write_text(page, encoding="utf-8"))


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
