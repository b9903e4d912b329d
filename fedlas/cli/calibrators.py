"""`fedlas calibrators`: calibrators that were made from scores, without the model behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlas.cli.command import Command, Session, add_delete, add_ls, add_show, examples, group
from fedlas.cli.failures import TABLE, CommandError, ExitCode, Require, about, code_of_verdict
from fedlas.cli.options import (
    Out,
    Pairs,
    PriorsInput,
    RequireOption,
    RolePairs,
    file_of,
    given_options,
    require_writable,
    roles_of,
)
from fedlas.cli.output import Column, count, transfer, when

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
app = group("Calibrators from logits and labels alone.")
add_ls(app, "calibrators", LIST)
add_show(app, "calibrators", CalibratorId, ONE, "Show a calibrator.", "cal_01k…")


@app.command(
    "create",
    cls=Command,
    epilog=examples(
        "fedlas calibrators create scores.npz --out calibrator.onnx",
        "fedlas calibrators create s.csv --require shown",
        table=TABLE,
    ),
)
def create(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="SCORES", help="npz or csv: logits or probabilities, and labels.")],
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
        record = session.client.calibrators.create(
            file_of(file),
            name=name or file.stem,
            method=method,
            roles=roles_of(role),
            on_upload=moved,
            **given_options(option, "--option"),
        ).raw
    if record["status"] == "failed":
        raise CommandError(record["error"]["message"])
    if out is not None:
        session.client.calibrators.download(record["id"], out)
    session.output.record(record, ONE)
    return code_of_verdict(record["report"], require)


@app.command("download", cls=Command, epilog=examples("fedlas calibrators download cal_01k… --out calibrator.onnx"))
def download(session: Session, calibrator: CalibratorId, *, out: Out = None, priors_input: PriorsInput = False) -> None:
    """Download a calibrator's ONNX file.

    Scores go in, probabilities come out.
    """
    file = out or Path(f"{calibrator}.onnx")
    require_writable(file)
    session.client.calibrators.download(calibrator, file, class_priors="input" if priors_input else None)
    session.output.lines([str(file)])


add_delete(app, "calibrators", CalibratorId, "Delete a calibrator.", "cal_01k…")
