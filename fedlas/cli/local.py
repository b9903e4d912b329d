"""`fedlas calibrate --local`: the job of a service in this process, from files to files, with no server at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlas.cli.asking import says_unseen
from fedlas.cli.exits import ExitCode, Require, code_of_verdict
from fedlas.cli.failures import CommandError, about
from fedlas.cli.files import file_of, write
from fedlas.cli.options import given_options
from fedlas.cli.orders import Order
from fedlas.cli.output import Output
from fedlas.cli.progress import share
from fedlas.cli.reports import show
from fedlas.errors import BadDataset, UnsupportedModel

if TYPE_CHECKING:
    from fedlas.calibration import CalibrationOptions
    from fedlas.calibration.in_memory import Progress
    from fedlas.calibration.result import CalibrationResult

#: Fields of a job, and parameters of the two uploads, that are followed here.
_JOB = {"method", "hyperparameters", "max_cost_factor", "expected_accuracy", "accept_warnings", "seed", "class_priors"}
_MODEL = ("class_names", "features", "output", "task", "architecture")
_DATASET = ("split_shares", "missing")


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
    if strange := sorted(set(order.fields) - _JOB - {"budget", "gate"}):
        raise CommandError(f"{strange[0]} needs a service; it does not go with --local")
    given = {
        **given_options(order.model_option, "--model-option", _MODEL),
        **given_options(order.dataset_option, "--dataset-option", _DATASET),
        **order.reading,
    }
    try:
        found = _calibrated(output, file_of(model), file_of(data), given, order)
    except CommandError as error:
        if getattr(error.__cause__, "code", "") != "provenance_needed" or not says_unseen():
            raise
        found = _calibrated(output, file_of(model), file_of(data), {**given, "seen_by_model": "no"}, order)
    if out is not None:
        write(out, found.save)
        output.note(f"{out}: {'the calibrated model' if found.promoted else 'the model as it came'}")
    if report is not None:
        write(report, found.save_report)
    document = found.report.as_dict()
    show(output, document, key=found.verdict)
    return code_of_verdict(document, require or Require.promoted)


def _calibrated(output: Output, model: Path, data: Path, given: dict[str, Any], order: Order) -> CalibrationResult:
    with share(output) as moved, about(model, UnsupportedModel), about(data, BadDataset):
        moved("reading", None)
        import fedlas

        def on_progress(now: Progress) -> None:
            detail = f": {now.detail}" if now.detail and moved.shows_candidates else ""
            moved(f"{now.stage}{detail}", now.fraction)

        names = given.pop("class_names", None)
        listed = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
        options = _options(order)
        return fedlas.calibrate(
            model,
            data=data,
            class_names=listed,
            options=options,
            on_progress=on_progress,
            on_notice=lambda notice: output.note(f"warning: {notice.message}"),
            **given,
        )


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
