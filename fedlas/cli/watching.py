"""Watching a job: a bar that moves with its events, and what Ctrl-C means while it runs."""

from __future__ import annotations

import sys
from typing import Any

import typer

from fedlas.cli.asking import agreed, somebody_is_there
from fedlas.cli.command import Session
from fedlas.cli.exits import ExitCode
from fedlas.cli.failures import CommandError
from fedlas.cli.output import Json
from fedlas.cli.progress import share
from fedlas.cli.records import as_json


class _Course:
    """What the events of a job say that it does."""

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
                known = as_json(event)
                course.heard(known)
                if known["type"] == "warning":
                    session.output.note(f"warning: {known['data']['message']}")
                moved(course.told(candidates=moved.shows_candidates), course.fraction)

            return as_json(session.client.jobs.wait(job_id, on_event=on_event, check=False))
    except KeyboardInterrupt:
        _interrupted(session, job_id)
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def require_success(job: Json) -> None:
    """Raise what a job says of its failure."""
    if job["status"] == "failed":
        code = ExitCode.USER_ERROR if job["error"]["user_error"] else ExitCode.DEFECT
        raise CommandError(f"{job['id']} failed ({job['error']['code']}): {job['error']['message']}", code)
    if job["status"] == "cancelled":
        raise CommandError(f"{job['id']} was cancelled")


def _interrupted(session: Session, job_id: str) -> None:
    """Ask whether the job is to end, too; without an answer it goes on."""
    print(file=sys.stderr)
    if _cancels(job_id):
        session.client.jobs.cancel(job_id)
        print(f"{job_id} is being cancelled.", file=sys.stderr)
    else:
        print(f"{job_id} goes on. To watch it again: {session.command_line('jobs', 'watch', job_id)}", file=sys.stderr)


def _cancels(job_id: str) -> bool:
    try:
        return somebody_is_there() and agreed(f"Cancel {job_id}? It goes on otherwise.")
    except KeyboardInterrupt:
        return False
