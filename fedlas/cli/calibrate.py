"""`fedlas calibrate`: a model and labelled rows in, a calibrated model with its report out; the gate of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import typer

from fedlas.cli import jobs
from fedlas.cli.command import Session, examples
from fedlas.cli.failures import TABLE, CommandError, ExitCode, Require, about, code_of_job
from fedlas.cli.options import Order, RolePairs, SeenByModel, file_of, given_options, require_writable, says_unseen
from fedlas.cli.output import transfer

T = TypeVar("T")
#: What a job tries.
Method = Literal[
    "auto",
    "fedlas",
    "fedlas_plus",
    "label_smoothing",
    "mbls",
    "acls",
    "focal",
    "cross_entropy",
    "post_hoc",
    "temperature",
]
#: What it takes for a job's model to become a version of the name.
PublishWhen = Literal["promoted", "shown", "always"]
HELP_END = examples(
    "fedlas calibrate model.onnx rows.npz --publish-as digits --watch",
    "fedlas calibrate model.onnx rows.csv --role label=diagnosis --seen-by-model no --budget 10m --report report.html",
    "fedlas calibrate model.onnx rows.npz --require shown --out calibrated.onnx  # in a pipeline",
    "fedlas calibrate model.onnx rows.npz --local --out calibrated.onnx  # no server",
    "fedlas calibrate model.onnx rows.npz --dry-run",
    table=TABLE,
)


def calibrate(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX or safetensors file, or an id, mdl_….")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled rows: npz, csv, parquet, zip; or ds_….")],
    *,
    method: Annotated[
        Method | None, typer.Option("--method", metavar="METHOD", help=f"One of {', '.join(get_args(Method))}.")
    ] = None,
    budget: Annotated[str | None, typer.Option(metavar="TIME", help="Such as 90s, 30m (as without it) or 2h.")] = None,
    candidates: Annotated[int | None, typer.Option(help="At most so many trainings.", min=1)] = None,
    publish_as: Annotated[str | None, typer.Option(metavar="NAME", help="The name that is to answer.")] = None,
    publish_when: Annotated[PublishWhen | None, typer.Option(help="What it takes to be published.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Wait for the end, and show how far it is.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the model to be served to this file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report to this file, .html or .json.")] = None,
    require: Annotated[Require | None, typer.Option(help="What must come of it for exit code 0.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Do it in this process; no server is asked.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and estimate; train nothing.")] = False,
    role: RolePairs = None,
    seen_by_model: SeenByModel = None,
    expected_accuracy: Annotated[float | None, typer.Option(help="Of the model as it is.", min=0, max=1)] = None,
    accept_warning: Annotated[list[str] | None, typer.Option(metavar="CODE", help="Go on in spite of it.")] = None,
    class_priors: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="How often each class occurs in use.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.", min=0)] = None,
    model_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Parameter of the model's upload.")
    ] = None,
    dataset_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Parameter of the dataset's upload.")
    ] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Words of your own.")] = None,
    job: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="Any field of a job, as the API has it.")
    ] = None,
) -> ExitCode:
    """Calibrate a classifier, judge it, and gate a pipeline.

    The rows of one part calibrate and train, those of another judge, and the exit code says what came of it.

    --watch, --out, --report and --require wait for the end; without them the job's id is printed, and the job goes on.
    --require is promoted unless it is given.
    """
    if dry_run and (local or watch or out or report or require):
        raise CommandError("--dry-run only asks a service what a job would do: it has no result to require or write")
    require_writable(out, ".onnx")
    require_writable(report, *jobs.FORMS)
    order = Order.of(
        method=method,
        budget=budget,
        candidates=candidates,
        publish_as=publish_as,
        publish_when=publish_when,
        expected_accuracy=expected_accuracy,
        accept_warnings=accept_warning,
        class_priors=class_priors,
        seed=seed,
        model_option=model_option,
        dataset_option=dataset_option,
        role=role,
        seen_by_model=seen_by_model,
        metadata=metadata,
        job=job,
    )
    if local:
        from fedlas.cli import local as in_this_process

        return in_this_process.calibrate(session.output, Path(model), Path(data), order, out, report, require)
    if dry_run:
        return jobs.plan(session, order.fields, *_uploaded(session, model, data, order))
    waits = watch or out is not None or report is not None or require is not None
    return _ordered(session, order, _uploaded(session, model, data, order), waits, out, report, require)


def _uploaded(session: Session, model: str, data: str, order: Order) -> tuple[str, str]:
    """The ids of model and dataset, which are sent where they are files; both are looked at before one is sent."""
    model_file, data_file = (
        None if given.startswith(kind) and not Path(given).exists() else file_of(Path(given))
        for given, kind in ((model, "mdl_"), (data, "ds_"))
    )
    models, datasets = session.client.models, session.client.datasets
    options = (
        given_options(order.model_option, "--model-option"),
        given_options(order.dataset_option, "--dataset-option") | order.reading,
    )
    if model_file is not None:
        model = _sent(session, models.upload, model_file, options[0]).id
    if data_file is not None:
        rows = _sent(session, datasets.upload, data_file, options[1])
        if rows.seen_by_model == "unknown" and "seen_by_model" not in options[1] and says_unseen():
            datasets.delete(rows)
            rows = _sent(session, datasets.upload, data_file, {**options[1], "seen_by_model": "no"})
        data = rows.id
    return model, data


def _sent(session: Session, upload: Callable[..., T], file: Path, options: Mapping[str, Any]) -> T:
    with about(file), transfer(session.output, f"uploading {file.name}", then=f"inspecting {file.name}") as moved:
        return upload(file, name=file.stem, on_upload=moved, **options)


def _ordered(
    session: Session,
    order: Order,
    ids: tuple[str, str],
    waits: bool,
    out: Path | None,
    report: Path | None,
    require: Require | None,
) -> ExitCode:
    """Order the job, and where that was asked for wait until it has ended and fetch what came of it."""
    job = session.client.jobs.create(*ids, **order.fields).raw
    if not waits:
        jobs.show(session, job)
        session.output.note(f"To watch it: {session.command_line('jobs', 'watch', job['id'])}")
        return ExitCode.AS_REQUIRED
    return finish(session, str(job["id"]), out, report, require or Require.promoted)


def finish(session: Session, job_id: str, out: Path | None, report: Path | None, require: Require) -> ExitCode:
    """Watch a job to its end, write the files that were asked for, and show what came of it."""
    session.output.note(f"{job_id} is ordered. To watch it again: {session.command_line('jobs', 'watch', job_id)}")
    job = jobs.watch(session, job_id)
    if job["status"] != "succeeded":
        if session.output.json:
            jobs.show(session, job)
        jobs.require_success(job)
    found = session.client.jobs.report(job_id)
    if out is not None:
        with transfer(session.output, f"downloading {out.name}") as moved:
            session.client.models.download(job["calibrated_model_id"], out, on_progress=moved)
        session.output.note(f"{out}: {'the calibrated model' if job['promoted'] else 'the model as it was uploaded'}")
    if report is not None:
        found.save(report)
    if session.output.tables:
        jobs.show_report(session.output, found.raw, key=job_id)
        session.output.note(f"{job_id}, model {job['calibrated_model_id']}")
    else:
        jobs.show(session, job)
        if not (session.output.json or session.output.quiet):
            session.output.lines(f"summary\t{sentence}" for sentence in found.summary)
    return code_of_job(job, require)
