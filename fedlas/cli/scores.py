"""Scores on the command line: `fedlas calibrate SCORES`, `fedlas label-plan`, and answers of `calibrators predict`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from fedlas.cli.command import Command, Session, examples
from fedlas.cli.failures import CommandError, ExitCode, UsageError, about, code_of_scores
from fedlas.cli.options import file_of, require_writable, valid, write
from fedlas.cli.output import Column, Json, percent, transfer
from fedlas.cli.resources import GROUPS
from fedlas.errors import BadDataset
from fedlas.file_kinds import named

#: Parameters of `fedlas calibrate` that go with scores; `DATA` and the common options aside.
_KNOWN = {
    *("model", "max_error", "precision", "recall", "confidence", "slice", "valid_for"),
    *("publish_as", "class_names", "role", "out", "report", "local"),
}
#: Sentences for what is no score, by format.
_OTHERS = {
    "imagefolder": "{0} holds images, whose model comes first: fedlas calibrate model.onnx {0}",
    **dict.fromkeys(("csv", "npz"), "{0} holds scores of several classes: fedlas calibrators create {0}"),
    "parquet": "{0} holds scores of several classes: write it as csv, then fedlas calibrators create scores.csv",
}
_ANSWERS = (
    Column("score", "score"),
    Column("probability", "probability", percent),
    Column("low", "low", percent),
    Column("high", "high", percent),
    Column("accept", "accept"),
    Column("stale", "stale"),
)
PLAN_HELP_END = examples(
    "fedlas label-plan --max-error 0.05 --accept 0.4",
    "fedlas label-plan --max-error 0.02 --accept 0.3 --error-there 0.005 --confidence 0.9",
)


def calibrate(
    session: Session,
    file: str,
    promise: dict[str, float],
    options: dict[str, Any],
    out: Path | None,
    report: Path | None,
    *,
    local: bool,
) -> ExitCode:
    """Calibrate the scores in a file, write the files that were asked for, and print the promise and the verdict."""
    from fedlas.contract.options import ScoresPart

    if sentence := _no_scores(file, options.get("roles")):
        raise UsageError(sentence)
    asked = {name for name in session.params if str(session.get_parameter_source(name)).endswith("COMMANDLINE")}
    if strange := sorted(asked - _KNOWN):
        raise UsageError(f"--{strange[0].replace('_', '-')} is for a model with rows; {file} holds scores")
    require_writable(out, ".onnx")
    require_writable(report, ".html", ".json")
    valid(ScoresPart.model_validate, {**options, "promise": promise})
    made = (_here if local else _served)(session, Path(file), promise, options, out, report)
    document = made if local else made["report"]
    if session.output.json or session.output.quiet:
        session.output.record(made, (), key="verdict" if local else "id")
    else:
        session.output.lines(document["summary"])
    return code_of_scores(document)


def require_free(session: Session, name: str | None, *, scores: bool) -> None:
    """Raise for a published name that answers other requests than this would: it is not published in the end."""
    from fedlas.client.errors import NotFoundError, PermissionDeniedError
    from fedlas.contract.scores import ScorePromise

    with suppress(NotFoundError, PermissionDeniedError):
        if name and isinstance(session.client.models.get(name).promise, ScorePromise) != scores:
            takes = "rows and no scores" if scores else "scores and no rows"
            raise CommandError(f"publish_as is {name!r}, whose versions take {takes}; expected another name")


def _no_scores(file: str, roles: dict[str, str] | None) -> str:
    """The sentence for a file that holds no scores, with the command that takes it; empty for scores."""
    missing = f"Missing argument 'DATA', the rows for the model: fedlas calibrate {quote(file)} rows.csv"
    if file.startswith("mdl_") and not Path(file).exists():
        return missing
    path = file_of(Path(file))
    try:
        from fedlas.data.file_format import kind_at, told_format
        from fedlas.scores.result import columns_in
    except ModuleNotFoundError:
        return ""  # this machine lacks what reads them, so that a service does
    if (kind := kind_at(path)) and kind.model:
        return named(f"{file} is {kind.what}: {kind.model}", path)
    with about(path, BadDataset):
        if columns_in(path, roles) is not None:
            return ""
    with suppress(BadDataset):
        return _OTHERS[told_format(path)].format(file)
    return missing


def _served(
    session: Session,
    file: Path,
    promise: dict[str, float],
    options: dict[str, Any],
    out: Path | None,
    report: Path | None,
) -> Json:
    """The record of the service."""
    from fedlas.client.errors import InvalidRequestError, JobFailed

    require_free(session, options.get("publish_as"), scores=True)
    calibrators = session.client.calibrators
    with about(file, InvalidRequestError, JobFailed), transfer(session.output, f"uploading {file.name}") as moved:
        record = calibrators.fit(file, promise=promise or None, on_upload=moved, **options)
    if out is not None:
        calibrators.download(record, out)
    if report is not None:
        calibrators.save_report(record, report)
    published = f"{record.publish_as} answers with it, version {record.version}" if record.version else ""
    notes = (session.page("calibrators", record.id), published or record.not_published)
    session.output.note("\n".join(filter(None, notes)))
    return record.raw


def _here(
    session: Session,
    file: Path,
    promise: dict[str, float],
    options: dict[str, Any],
    out: Path | None,
    report: Path | None,
) -> Json:
    """The report of a calibration in this process."""
    from fedlas.scores.result import fit_scores

    if "publish_as" in options:
        raise CommandError("publish_as needs a service; it does not go with --local")
    with about(file, BadDataset):
        result = fit_scores(
            file,
            promise=promise,
            slices=options.get("slice"),
            class_names=options.get("class_names"),
            roles=options.get("roles"),
            valid_for=options.get("valid_for"),
        )
    if out is not None:
        write(out, result.save)
    if report is not None:
        write(report, result.save_report)
    return result.report.model_dump(mode="json")


def label_plan(
    session: Session,
    *,
    max_error: Annotated[float, typer.Option(metavar="SHARE", help="At most so many accepted rows are wrong.")],
    accept: Annotated[float, typer.Option(metavar="SHARE", help="The share of all rows that is to be accepted.")],
    confidence: Annotated[float, typer.Option(help="How surely the promise is kept.", min=0.5, max=0.9999)] = 0.95,
    error_there: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="The share of them that is wrong; without it half of the most."),
    ] = None,
) -> None:
    """Plan how many labels a promise needs.

    It is kept with these labels in four of five cases, if scores order rows as a judge's do.
    """
    from fedlas.gate.gate import ledger_level
    from fedlas.scores.promise import planned_labels

    try:
        labels = planned_labels(max_error, accept, ledger_level(0, 1 - confidence), error_there=error_there)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if session.output.json or session.output.quiet:
        session.output.record({"labels": labels}, (), key="labels")
    else:
        shares = f"{100 * max_error:.4g} % at {100 * accept:.4g} % of the rows"
        session.output.lines([f"To promise {shares} you need about {labels:,} labels."])


@GROUPS["calibrators"].command(
    "predict",
    cls=Command,
    epilog=examples(
        "fedlas calibrators predict judge 8.2 9.1",
        "fedlas calibrators predict judge 8.2 --valid-for prompt-7 --json",
        "fedlas calibrators predict judge -- -1.5",
    ),
)
def predict(
    session: Session,
    calibrator: Annotated[str, typer.Argument(metavar="CALIBRATOR", help="A published name, or an id, cal_….")],
    scores: Annotated[list[float], typer.Argument(metavar="SCORES", help="A score for each row; nan is missing.")],
    *,
    valid_for: Annotated[
        str | None, typer.Option(metavar="VERSION", help="The judge or prompt that they come from.")
    ] = None,
) -> None:
    """Answer scores with probabilities, and whether the promise accepts them."""
    answer = session.client.calibrators.predict(calibrator, scores, valid_for=valid_for).raw
    if session.output.json:
        session.output.record(answer, ())
    else:
        rows = ({"score": score, **row} for score, row in zip(scores, answer["predictions"], strict=True))
        session.output.records(rows, _ANSWERS, key="probability")
