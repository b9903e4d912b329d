"""`fedlas calibrate`: a model and labelled rows in, a calibrated model with its report out; a gate for pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from fedlas.cli import jobs, scores
from fedlas.cli.command import Session, examples
from fedlas.cli.failures import TABLE, ExitCode, Require, UsageError, code_of_job
from fedlas.cli.groups import sent
from fedlas.cli.options import (
    Request,
    RequireOption,
    RolePairs,
    SeenByModel,
    class_names_of,
    file_of,
    job_fields,
    object_of,
    pairs_of,
    present,
    require_columns,
    require_writable,
    roles_of,
    says_unseen,
)
from fedlas.cli.output import transfer
from fedlas.cli.resources import show_record

#: The candidates that a job tries.
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
#: The result with which a job's model becomes a version of the name.
PublishWhen = Literal["calibrated", "significant", "always"]
HELP_END = examples(
    "fedlas calibrate model.onnx rows.npz --publish-as digits",
    "fedlas calibrate model.onnx rows.csv --role label=diagnosis --seen-by-model no --budget 10m --report report.html",
    "fedlas calibrate model.onnx rows.npz --require significant --out calibrated.onnx  # in a pipeline",
    "fedlas calibrate model.onnx rows.npz --local --out calibrated.onnx  # no server",
    "fedlas calibrate model.onnx rows.npz --dry-run",
    "fedlas calibrate scores.csv --max-error 0.05 --publish-as judge",
    "fedlas calibrate scores.csv --precision 0.98 --confidence 0.9 --local --out judge.onnx",
    table=TABLE,
)


def calibrate(
    session: Session,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An ONNX or safetensors file, or an id, mdl_…; or scores, alone.")
    ],
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="Labelled rows: npz, csv, parquet, zip; or ds_….")
    ] = None,
    *,
    max_error: Annotated[
        float | None, typer.Option(metavar="SHARE", help="At most so many accepted rows are wrong.", min=0, max=1)
    ] = None,
    precision: Annotated[
        float | None, typer.Option(metavar="SHARE", help="At least so many accepted rows are right.", min=0, max=1)
    ] = None,
    recall: Annotated[
        float | None, typer.Option(metavar="SHARE", help="At least so many right rows are accepted.", min=0, max=1)
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="How surely the promise of scores is kept; 0.95 without it.")
    ] = None,
    slice: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of scores: each of its values gets a threshold.")
    ] = None,
    valid_for: Annotated[
        str | None, typer.Option(metavar="VERSION", help="The judge or prompt that scores come from.")
    ] = None,
    method: Annotated[
        Method | None, typer.Option("--method", metavar="METHOD", help=f"One of {', '.join(get_args(Method))}.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Such as 90s, 30m (as without it) or 1h30m.")
    ] = None,
    candidates: Annotated[int | None, typer.Option(help="At most so many trainings.", min=1)] = None,
    publish_as: Annotated[str | None, typer.Option(metavar="NAME", help="The name that is to answer.")] = None,
    publish_when: Annotated[PublishWhen | None, typer.Option(help="The result that publishes it.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print the job's id, and do not wait for its end.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the model to be served to this file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report to this file, .html or .json.")] = None,
    require: RequireOption = Require.any,
    local: Annotated[bool, typer.Option("--local", help="Do it in this process; no server is asked.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and estimate; train nothing.")] = False,
    role: RolePairs = None,
    seen_by_model: SeenByModel = None,
    class_names: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="The model's classes, in order of its outputs.")
    ] = None,
    expected_accuracy: Annotated[
        float | None, typer.Option(help="Accuracy of the uploaded model.", min=0, max=1)
    ] = None,
    accept_warning: Annotated[list[str] | None, typer.Option(metavar="CODE", help="Go on in spite of it.")] = None,
    class_priors: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="How often each class occurs in use.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", min=0)] = None,
    model_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Parameter of the model's upload.")
    ] = None,
    dataset_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Parameter of the dataset's upload.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Pairs that the record repeats.")
    ] = None,
    job: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="Any field of a job, as the API has it.")
    ] = None,
) -> ExitCode:
    """Calibrate a classifier, judge it, and gate a pipeline.

    The rows of one part calibrate and train, those of another judge; with --require the exit code gates on the result.

    Alone, a file with a column `score`, or several `signal_…`, and a `label` 1 or 0 becomes probabilities and a
    threshold with a promise; the exit code is 0 where one is made or they are shown to be better, else 3 or 4.

    It waits for the end unless there is --detach: then the job's id is printed, and the job goes on.
    """
    wanted = present({"max_error": max_error, "precision": precision, "recall": recall, "confidence": confidence})
    of_scores = present({"slice": slice, "valid_for": valid_for})
    if data is None:
        reading = {
            "class_names": class_names_of(class_names),
            "roles": roles_of(role, scores=True),
            "publish_as": publish_as,
        }
        return scores.calibrate(session, model, wanted, of_scores | present(reading), out, report, local=local)
    if unused := [*wanted, *of_scores]:
        raise UsageError(f"--{unused[0].replace('_', '-')} is for scores, which come without DATA")
    results = [name for name, given in (("--out", out), ("--report", report)) if given is not None]
    results += ["--require"] * (require is not Require.any)
    if results and (dry_run or detach):
        raise UsageError(f"{'--dry-run' if dry_run else '--detach'} has no result for {results[0]}")
    if local and (dry_run or detach):
        raise UsageError(f"{'--dry-run' if dry_run else '--detach'} asks a service; it does not go with --local")
    require_writable(out, ".onnx")
    require_writable(report, *jobs.FORMS)
    request = Request(
        job_fields(
            job,
            budget,
            candidates,
            method=method,
            publish_as=publish_as,
            publish_when=publish_when,
            expected_accuracy=expected_accuracy,
            accept_warnings=accept_warning,
            class_priors=None if class_priors is None else object_of(class_priors, "--class-priors"),
            seed=seed,
            metadata=pairs_of(metadata, "--metadata") or None,
        ),
        model_option,
        dataset_option,
        present({"class_names": class_names_of(class_names)}),
        present({"roles": roles_of(role), "seen_by_model": seen_by_model}),
    )
    if local:
        from fedlas.cli import local as in_this_process

        return in_this_process.calibrate(session.output, Path(model), Path(data), request, out, report, require)
    ids = _uploaded(session, model, data, request)
    if dry_run:
        return jobs.plan(session, request.fields, *ids)
    created = session.client.jobs.create(*ids, **request.fields).raw
    if not detach:
        return finish(session, str(created["id"]), out, report, require)
    show_record(session, "jobs", created)
    session.output.note(
        f"{session.page('jobs', created['id'])}\nTo watch it: {session.command_line('jobs', 'watch', created['id'])}"
    )
    return ExitCode.AS_REQUIRED


def _uploaded(session: Session, model: str, data: str, request: Request) -> tuple[str, str]:
    """The ids of model and dataset, which are sent where they are files; all is looked at before one is sent."""
    model_file, data_file = (
        None if given.startswith(kind) and not Path(given).exists() else file_of(Path(given))
        for given, kind in ((model, "mdl_"), (data, "ds_"))
    )
    models, datasets = session.client.models, session.client.datasets
    options = (request.model_options(), request.dataset_options())
    if unsent := [*(() if model_file else options[0]), *(() if data_file else options[1])]:
        raise UsageError(f"{unsent[0]} belongs to a file that is sent, and what it is for is stored already")
    if data_file is not None:
        require_columns(data_file, options[1].get("roles", {}))
    scores.require_free(session, request.fields.get("publish_as"), scores=False)
    if (model_file is None) != (data_file is None):  # a file is sent only where its partner is there
        models.get(model) if model_file is None else datasets.get(data)
    if model_file is not None:
        model = sent(session, models.upload, model_file, **options[0]).id
    if data_file is not None:
        rows = sent(session, datasets.upload, data_file, **{"purpose": "fit", **options[1]})
        if rows.seen_by_model == "unknown" and "seen_by_model" not in options[1] and says_unseen():
            datasets.delete(rows)
            rows = sent(session, datasets.upload, data_file, **{**options[1], "seen_by_model": "no"})
        data = rows.id
    return model, data


def finish(session: Session, job_id: str, out: Path | None, report: Path | None, require: Require) -> ExitCode:
    """Watch a job to its end, write the files that were asked for, and show the result."""
    session.output.note(
        f"{job_id} is created: {session.page('jobs', job_id)}\n"
        f"To watch it again: {session.command_line('jobs', 'watch', job_id)}"
    )
    job = jobs.watch(session, job_id)
    if job["status"] != "succeeded":
        if session.output.json:
            show_record(session, "jobs", job)
        jobs.require_success(job)
    job_report = session.client.jobs.report(job_id)
    if out is not None:
        with transfer(session.output, f"downloading {out.name}") as moved:
            session.client.models.download(job["calibrated_model_id"], out, on_progress=moved)
        session.output.note(
            f"{out}: {'the calibrated model' if job['serves'] == 'calibrated' else 'the model as it was uploaded'}"
        )
    if report is not None:
        job_report.save(report)
    if session.output.tables:
        jobs.show_report(session.output, job_report.raw, key=job_id)
        session.output.note(f"{job_id}, model {job['calibrated_model_id']}")
    else:
        show_record(session, "jobs", job)
        if not (session.output.json or session.output.quiet):
            session.output.lines(f"summary\t{sentence}" for sentence in job_report.summary)
    return code_of_job(job, require)
