"""`fedlas report`: what a calibration has shown, and the code by which a later step of a pipeline is let through."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlas.cli.command import Session, command
from fedlas.cli.exits import TABLE, ExitCode, Require, code_of_verdict
from fedlas.cli.files import require_writable
from fedlas.cli.output import Json, Output
from fedlas.cli.records import as_json

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


def register(app: typer.Typer) -> None:
    """Add the command."""
    examples = [
        "fedlas report job_01k…",
        "fedlas report job_01k… --out report.html",
        "fedlas report job_01k… --require shown -q  # a later step of the pipeline",
    ]

    @command(app, "report", examples=examples, more=TABLE)
    def report(
        session: Session,
        job: Annotated[str, typer.Argument(metavar="JOB", help="The id of a job that has ended, job_….")],
        *,
        out: Annotated[Path | None, typer.Option(help="Write it to this file, .html or .json.")] = None,
        require: Annotated[Require, typer.Option(help="What it must say for exit code 0.")] = Require.any,
    ) -> ExitCode:
        """Show what a job has found, or write its report.

        Without --require the exit code is 0 whatever it says.
        """
        require_writable(out, *FORMS)
        found = session.client.jobs.report(job)
        document = as_json(found)
        if out is None:
            show(session.output, document, key=job)
        else:
            session.output.lines([str(found.save(out))])
        return code_of_verdict(document, require)


def show(output: Output, report: Json, *, key: str) -> None:
    """Write a report: the document itself, or for people what is served, the main figures, and the other sentences."""
    if output.json:
        output.record(report, ())
    elif output.quiet:
        output.lines([key])
    else:
        first = [*report["advice"], *report["warnings"]]
        output.lines([f"{report['verdict']}{', shown to be better' if report['shown'] else ''}"])
        output.lines(f"- {sentence}" for sentence in first)
        _figures(output, report)
        output.lines(f"- {sentence}" for sentence in report["summary"] if sentence not in first)


def _figures(output: Output, report: Json) -> None:
    """The metrics of the three models on the test rows, in columns."""
    titles = [f"{report['num_test_rows']:,} test rows", *(title for _, title in _MODELS)]
    metrics = report["metrics"]
    rows = [[title, *(_figure(metrics[model][name]) for model, _ in _MODELS)] for name, title in _METRICS]
    if output.tables:
        output.table(titles, rows, whole=True)
        output.lines(["* beside it the range that a perfectly calibrated model would score: the noise floor"])
    else:
        output.lines("\t".join(row) for row in (titles, *rows))


def _figure(estimate: Json) -> str:
    low, high = (estimate.get(bound, estimate.get(f"floor_{bound}")) for bound in ("low", "high"))
    return f"{estimate['value']:.3f} [{low:.3f}, {high:.3f}]"
