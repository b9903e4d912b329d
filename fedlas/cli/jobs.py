"""`fedlas jobs`: calibrations, as the service runs them."""

from __future__ import annotations

from typing import Annotated

import typer

from fedlas.cli.command import Session, command, group
from fedlas.cli.exits import TABLE, ExitCode, Require, code_of_job
from fedlas.cli.options import After, Before, Limit, Name, RequireOption, Status, Yes, confirm, pairs_of
from fedlas.cli.output import Column, Json, percent, when
from fedlas.cli.records import as_json, as_jsons

LIST = (
    Column("id", "id"),
    Column("status", "status"),
    Column("done", "progress.fraction", percent),
    Column("verdict", "verdict"),
    Column("shown", "shown"),
    Column("publish as", "publish_as"),
    Column("created", "created_at", when),
)
ONE = (
    *LIST[:2],
    Column("stage", "stage"),
    Column("done", lambda job: job["progress"]["fraction"], percent),
    Column(
        "seconds left", lambda job: None if job["finished_at"] else job["progress"]["eta_seconds"], lambda s: f"{s:.0f}"
    ),
    Column("waiting for", "waiting_for"),
    Column("error", lambda job: job["error"] and f"{job['error']['code']}: {job['error']['message']}"),
    Column("verdict", "verdict"),
    Column("promoted", lambda job: job["promoted"] if job["verdict"] else None),
    Column("shown", lambda job: job["shown"] if job["verdict"] else None),
    Column("calibrated model", "calibrated_model_id"),
    Column("model", "model_id"),
    Column("dataset", "dataset_id"),
    Column("method", "method"),
    Column("budget", lambda job: f"{job['budget']['minutes']:g} min, {job['budget']['candidates']} candidates"),
    Column("publish as", "publish_as"),
    Column("warnings", lambda job: "\n".join(f"{w['code']}: {w['message']}" for w in job["warnings"]) or None),
    Column("report", "report_url"),
    Column("created", "created_at", when),
    Column("finished", "finished_at", when),
)
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The id of a job, job_….")]


def show(session: Session, job: Json) -> None:
    """Write a job's record."""
    session.output.record(job, ONE)


def register(app: typer.Typer) -> None:
    """Add the group."""
    jobs = group(app, "jobs", "Calibrations: list, watch, cancel, delete.")

    @command(
        jobs, "ls", examples=["fedlas jobs ls", "fedlas jobs ls --status running -q", "fedlas jobs ls --json | jq"]
    )
    def ls(
        session: Session,
        *,
        limit: Limit = 20,
        status: Status = None,
        name: Name = None,
        created_after: After = None,
        created_before: Before = None,
        metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only those with it.")] = None,
    ) -> None:
        """List jobs, newest first."""
        filters = {"status": status, "name": name, "created_after": created_after, "created_before": created_before}
        found = session.client.jobs.list(limit=limit, **filters, metadata=pairs_of(metadata, "--metadata") or None)
        session.output.records(as_jsons(found), LIST)

    @command(jobs, "show", examples=["fedlas jobs show job_01k…", "fedlas jobs show job_01k… --json | jq .plan"])
    def show_job(session: Session, job: JobId) -> None:
        """Show a job."""
        show(session, as_json(session.client.jobs.get(job)))

    examples = ["fedlas jobs watch job_01k…", "fedlas jobs watch job_01k… --require shown"]

    @command(jobs, "watch", examples=examples, more=TABLE)
    def watch_job(session: Session, job: JobId, *, require: RequireOption = Require.promoted) -> ExitCode:
        """Watch a job to its end.

        The exit code says what came of it.
        Ctrl-C asks whether the job is to be cancelled, and lets it go on otherwise.
        """
        from fedlas.cli.watching import watch

        ended = watch(session, job)
        show(session, ended)
        return code_of_job(ended, require)

    @command(jobs, "cancel", examples=["fedlas jobs cancel job_01k…"])
    def cancel(session: Session, job: JobId) -> None:
        """Cancel a job.

        What it has trained so far is lost.
        """
        show(session, as_json(session.client.jobs.cancel(job)))

    @command(jobs, "delete", examples=["fedlas jobs delete job_01k… --yes"])
    def delete(session: Session, job: JobId, *, yes: Yes = False) -> None:
        """Delete a job that has ended.

        Its report and events go with it; the model that it made stays.
        """
        confirm(f"Delete {job} with its report?", yes=yes)
        session.client.jobs.delete(job)
        session.output.lines([job])
