"""`fedlas calibrate --dry-run`: what a job would do, how long it would take, and what it would refuse."""

from __future__ import annotations

from fedlas.cli import jobs
from fedlas.cli.command import Session
from fedlas.cli.exits import ExitCode, Require, code_of_job
from fedlas.cli.orders import Order
from fedlas.cli.output import Column, count, percent
from fedlas.cli.watching import require_success, watch

_COLUMNS = (
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
    Column("smallest gain shown", "detectable_effect.gain"),
)


def plan(session: Session, order: Order, model: str, dataset: str) -> ExitCode:
    """Order a dry run, wait for it, and show its plan; exit code 1 where the job would fail."""
    job = watch(session, session.client.jobs.plan(model, dataset, wait=False, **order.fields).id)
    if session.output.json or session.output.quiet:
        jobs.show(session, job)
    require_success(job)
    if not (session.output.json or session.output.quiet):
        session.output.record(job["plan"], _COLUMNS)
    return code_of_job(job, Require.any)
