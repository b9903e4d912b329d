"""`fedlas calibrators`: calibrators that were made from scores, without the model behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlas.cli.command import Session, command, group
from fedlas.cli.exits import TABLE, ExitCode, Require, code_of_verdict
from fedlas.cli.failures import CommandError, about
from fedlas.cli.files import file_of, require_writable
from fedlas.cli.options import (
    After,
    Before,
    Limit,
    Name,
    Out,
    Pairs,
    PriorsInput,
    RequireOption,
    RolePairs,
    Status,
    Yes,
    confirm,
    given_options,
    roles_of,
)
from fedlas.cli.output import Column, count, when
from fedlas.cli.progress import transfer
from fedlas.cli.records import as_json, as_jsons

LIST = (
    Column("id", "id"),
    Column("name", "name"),
    Column("status", "status"),
    Column("method", "method"),
    Column("verdict", "report.verdict"),
    Column("shown", "report.shown"),
    Column("rows", "num_samples", count),
    Column("created", "created_at", when),
)
ONE = (
    *LIST[:3],
    Column("waiting for", "waiting_for"),
    Column("error", lambda one: one["error"] and f"{one['error']['code']}: {one['error']['message']}"),
    *LIST[3:6],
    Column("summary", lambda one: "\n".join((one["report"] or {}).get("summary", ()))),
    Column("parameters", "parameters"),
    *LIST[6:],
    Column("report", "report_url"),
)
CalibratorId = Annotated[str, typer.Argument(metavar="CALIBRATOR", help="The id of a calibrator, cal_….")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    calibrators = group(app, "calibrators", "Calibrators from logits and labels alone.")

    @command(calibrators, "ls", examples=["fedlas calibrators ls", "fedlas calibrators ls --json"])
    def ls(
        session: Session,
        *,
        limit: Limit = 20,
        status: Status = None,
        name: Name = None,
        created_after: After = None,
        created_before: Before = None,
    ) -> None:
        """List calibrators, newest first."""
        found = session.client.calibrators.list(
            limit=limit, status=status, name=name, created_after=created_after, created_before=created_before
        )
        session.output.records(as_jsons(found), LIST)

    @command(calibrators, "show", examples=["fedlas calibrators show cal_01k…"])
    def show(session: Session, calibrator: CalibratorId) -> None:
        """Show a calibrator."""
        session.output.record(as_json(session.client.calibrators.get(calibrator)), ONE)

    examples = [
        "fedlas calibrators create scores.npz --out calibrator.onnx",
        "fedlas calibrators create s.csv --require shown",
    ]

    @command(calibrators, "create", examples=examples, more=TABLE)
    def create(
        session: Session,
        file: Annotated[
            Path, typer.Argument(metavar="SCORES", help="npz or csv: logits or probabilities, and labels.")
        ],
        *,
        name: Annotated[str | None, typer.Option(help="What it is called; the file's name without this.")] = None,
        method: Annotated[str, typer.Option(help="auto, or a calibrator's name.")] = "auto",
        role: RolePairs = None,
        option: Pairs = None,
        out: Out = None,
        require: RequireOption = Require.promoted,
    ) -> ExitCode:
        """Make a calibrator from scores.

        The file has logits or probabilities, and labels; no model leaves this machine.
        """
        require_writable(out)
        with about(file), transfer(session.output, f"uploading {file.name}") as moved:
            made = session.client.calibrators.create(
                file_of(file),
                name=name or file.stem,
                method=method,
                roles=roles_of(role),
                on_upload=moved,
                **given_options(option, "--option"),
            )
        record = as_json(made)
        if record["status"] == "failed":
            raise CommandError(record["error"]["message"])
        if out is not None:
            session.client.calibrators.download(record["id"], out)
        session.output.record(record, ONE)
        return code_of_verdict(record["report"], require)

    @command(calibrators, "download", examples=["fedlas calibrators download cal_01k… --out calibrator.onnx"])
    def download(
        session: Session, calibrator: CalibratorId, *, out: Out = None, priors_input: PriorsInput = False
    ) -> None:
        """Download a calibrator's ONNX file.

        Scores go in, probabilities come out.
        """
        file = out or Path(f"{calibrator}.onnx")
        require_writable(file)
        session.client.calibrators.download(calibrator, file, class_priors="input" if priors_input else None)
        session.output.lines([str(file)])

    @command(calibrators, "delete", examples=["fedlas calibrators delete cal_01k… --yes"])
    def delete(session: Session, calibrator: CalibratorId, *, yes: Yes = False) -> None:
        """Delete a calibrator."""
        confirm(f"Delete {calibrator}?", yes=yes)
        session.client.calibrators.delete(calibrator)
        session.output.lines([calibrator])
