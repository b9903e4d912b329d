"""`fedlas calibrators`: calibrators made from scores, without the model behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlas.cli.command import Command, Session, examples
from fedlas.cli.failures import TABLE, ExitCode, Require, about, code_of_verdict
from fedlas.cli.options import (
    Out,
    Pairs,
    RequireOption,
    RolePairs,
    file_of,
    given_options,
    require_writable,
    roles_of,
)
from fedlas.cli.output import transfer
from fedlas.cli.resources import GROUPS, show_record


@GROUPS["calibrators"].command(
    "create",
    cls=Command,
    epilog=examples(
        "fedlas calibrators create scores.npz --out calibrator.onnx",
        "fedlas calibrators create s.csv --require significant",
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
    require: RequireOption = Require.any,
) -> ExitCode:
    """Make a calibrator from scores, and wait for it.

    The file has logits or probabilities, and labels; no model leaves this machine.
    """
    require_writable(out)
    with about(file), transfer(session.output, f"uploading {file.name}") as moved:
        begun = session.client.calibrators.create(
            file_of(file),
            name=name or file.stem,
            method=method,
            roles=roles_of(role),
            on_upload=moved,
            **given_options(option, "--option", "ScoresOptions"),
        )
        record = session.client.calibrators.wait(begun).raw
    if out is not None:
        session.client.calibrators.download(record["id"], out)
    show_record(session, "calibrators", record)
    return code_of_verdict(record["report"], require)
