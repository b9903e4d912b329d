"""`fedlas jobs` and `fedlas report`: calibrations, watched to their end, and their findings.

While a job is watched a bar moves with its events, and Ctrl-C asks whether it is to end, too.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlas.cli.command import Command, Session, examples
from fedlas.cli.failures import TABLE, CommandError, ExitCode, Require, code_of_job, code_of_verdict
from fedlas.cli.options import RequireOption, agreed, require_writable, somebody_is_there
from fedlas.cli.output import Column, Json, Output, count, percent, share, shows_progress
from fedlas.cli.resources import GROUPS, JobId, show_record

_PLAN = (
    Column("would fail with", "fails_with"),
    Column("warnings", lambda plan: "\n".join(f"{w['code']}: {w['message']}" for w in plan["warnings"]) or None),
    Column("trains", "trains"),
    Column("classes", lambda plan: ", ".join(f"{c['name']} {c['rows']:,}" for c in plan["labels"]["classes"][:20])),
    Column("labels matched by", "labels.matched_by"),
    Column("splits", lambda plan: ", ".join(f"{split} {rows:,}" for split, rows in plan["splits"].items() if rows)),
    Column("model's accuracy", "uploaded.accuracy", percent),
    Column("model's confidence", "uploaded.confidence", percent),
    Column("minutes", "estimate.minutes"),
    Column("memory, bytes", "estimate.memory_bytes", count),
    Column("smallest provable gain", "detectable_effect.gain"),
)
#: Endings of files that a report can be written to.
FORMS = (".html", ".json")
_METRICS = (
    ("accuracy", "accuracy ↑"),
    ("nll", "NLL ↓"),
    ("brier", "Brier ↓"),
    ("calibration_error_l2", "ℓ2 error ↓"),
    ("aurc", "AURC ↓"),
    ("ece", "ECE ↓ *"),
)
_MODELS = (("uploaded", "uploaded"), ("temperature", "with a temperature"), ("calibrated", "served"))


@GROUPS["jobs"].command(
    "watch",
    cls=Command,
    epilog=examples("fedlas jobs watch job_01k…", "fedlas jobs watch job_01k… --require significant", table=TABLE),
)
def watch_job(session: Session, job: JobId, *, require: RequireOption = Require.any) -> ExitCode:
    """Watch a job to its end.

    Ctrl-C asks whether the job is to be cancelled, and lets it go on otherwise.
    """
    ended = watch(session, job)
    show_record(session, "jobs", ended)
    return code_of_job(ended, require)


@GROUPS["jobs"].command("cancel", cls=Command, epilog=examples("fedlas jobs cancel job_01k…"))
def cancel(session: Session, job: JobId) -> None:
    """Cancel a job.

    What it has trained so far is lost.
    """
    show_record(session, "jobs", session.client.jobs.cancel(job).raw)


def report(
    session: Session,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The id of a job that has ended, job_….")],
    *,
    out: Annotated[Path | None, typer.Option(help="Write it to this file, .html or .json.")] = None,
    require: RequireOption = Require.any,
) -> ExitCode:
    """Show what a job has found, or write its report."""
    require_writable(out, *FORMS)
    job_report = session.client.jobs.report(job)
    document = job_report.raw
    if out is None:
        show_report(session.output, document, key=job)
    else:
        session.output.lines([str(job_report.save(out))])
    return code_of_verdict(document, require)


def show_report(output: Output, report: Json, *, key: str) -> None:
    """Write a report: the document itself, or for people what is served, the main figures, and the other sentences."""
    if output.json:
        output.record(report, ())
    elif output.quiet:
        output.lines([key])
    else:
        first = [*report["advice"], *report["warnings"]]
        output.lines(
            [f"{report['verdict']}{', significantly better than the upload' if report['significant'] else ''}"]
        )
        output.lines(f"- {sentence}" for sentence in first)
        _figures(output, report)
        output.lines(f"- {sentence}" for sentence in report["summary"] if sentence not in first)


def _figures(output: Output, report: Json) -> None:
    titles = [f"{report['num_test_rows']:,} test rows", *(title for _, title in _MODELS)]
    metrics = report["metrics"]
    rows = [[title, *(_figure(metrics[model][name]) for model, _ in _MODELS)] for name, title in _METRICS]
    if output.tables:
        output.table(titles, rows, whole=True)
        output.lines(["* brackets hold the range that a perfectly calibrated model would score: the noise floor"])
    else:
        output.lines("\t".join(row) for row in (titles, *rows))


def _figure(estimate: Json) -> str:
    low, high = (estimate.get(bound, estimate.get(f"floor_{bound}")) for bound in ("low", "high"))
    return f"{estimate['value']:.3f} [{low:.3f}, {high:.3f}]"


class _Course:
    def __init__(self) -> None:
        self.status, self.stage, self.candidate = "queued", "", ""
        self.fraction: float | None = 0.0

    def heard(self, event: Json) -> None:
        data = event["data"]
        if event["type"] == "status":
            self.status = data["status"]
        elif event["type"] == "stage":
            self.stage, self.candidate = data["stage"], ""
        elif event["type"] == "progress":
            self.fraction, self.candidate = data["fraction"], data.get("candidate") or ""

    def told(self, *, candidates: bool) -> str:
        running = self.status == "running" and self.stage
        return (
            f"{self.stage}: {self.candidate}" if running and self.candidate and candidates else running or self.status
        )


def watch(session: Session, job_id: str) -> Json:
    """Follow a job until it has ended, and return its record; after Ctrl-C it goes on unless the user ends it."""
    course = _Course()
    try:
        with share(session.output) as moved:

            def on_event(event: Any) -> None:
                known = event.raw
                course.heard(known)
                if known["type"] == "warning":
                    session.output.note(f"warning: {known['data']['message']}")
                moved(course.told(candidates=shows_progress()), course.fraction)

            return session.client.jobs.wait(job_id, on_event=on_event, check=False).raw
    except KeyboardInterrupt:
        _interrupted(session, job_id)
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def require_success(job: Json) -> None:
    if job["status"] == "failed":
        code = ExitCode.USER_ERROR if job["error"]["user_error"] else ExitCode.DEFECT
        raise CommandError(f"{job['id']} failed ({job['error']['code']}): {job['error']['message']}", code)
    if job["status"] == "cancelled":
        raise CommandError(f"{job['id']} was cancelled")


def _interrupted(session: Session, job_id: str) -> None:
    """Ask whether the job is to end, too; without an answer it goes on."""
    print(file=sys.stderr)
    try:
        cancels = somebody_is_there() and agreed(f"Cancel {job_id}? Otherwise it continues.")
    except KeyboardInterrupt:
        cancels = False
    if cancels:
        session.client.jobs.cancel(job_id)
        print(f"{job_id} is being cancelled.", file=sys.stderr)
    else:
        print(
            f"{job_id} continues. To watch it again: {session.command_line('jobs', 'watch', job_id)}", file=sys.stderr
        )


def plan(session: Session, fields: Mapping[str, Any], model: str, dataset: str) -> ExitCode:
    """Create a dry run, wait for it, and show its plan; exit code 1 where the job would fail."""
    job = watch(session, session.client.jobs.plan(model, dataset, wait=False, **fields).id)
    if session.output.json or session.output.quiet:
        show_record(session, "jobs", job)
    require_success(job)
    if not (session.output.json or session.output.quiet):
        session.output.record(job["plan"], _PLAN)
    return code_of_job(job, Require.any)
