"""`fedlas models`, `datasets` and `calibrators`: files that are sent, and which model answers under a name.

Datasets are labelled rows, or rows that are only to be predicted; calibrators are made from scores, without the model
behind them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from fedlas.cli.command import Command, Session, examples
from fedlas.cli.failures import TABLE, ExitCode, Require, about, code_of_verdict
from fedlas.cli.options import (
    Out,
    Pairs,
    RequireOption,
    RolePairs,
    SeenByModel,
    Wait,
    file_of,
    given_options,
    require_writable,
    roles_of,
)
from fedlas.cli.output import transfer
from fedlas.cli.resources import GROUPS, PublishedName, show_record

T = TypeVar("T")


def sent(session: Session, upload: Callable[..., T], file: Path, *, name: str | None = None, **options: Any) -> T:
    """The record of a file, sent with a bar; errors about its content name the file."""
    with about(file), transfer(session.output, f"uploading {file.name}", then=f"inspecting {file.name}") as moved:
        return upload(file_of(file), name=name or file.stem, on_upload=moved, **options)


@GROUPS["models"].command(
    "upload",
    cls=Command,
    epilog=examples("fedlas models upload m.onnx --name digits", "fedlas models upload m.onnx -o class_names=cat,dog"),
)
def upload_model(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="ONNX, its weights beside it, or safetensors.")],
    *,
    name: Annotated[str | None, typer.Option(help="The record's name; by default that of the file.")] = None,
    option: Pairs = None,
    wait: Wait = True,
) -> None:
    """Upload a model and inspect it."""
    options = given_options(option, "--option", "ModelOptions")
    record = sent(session, session.client.models.upload, file, name=name, wait=wait, **options)
    show_record(session, "models", record.raw)


@GROUPS["models"].command("promote", cls=Command, epilog=examples("fedlas models promote digits 2"))
def promote(
    session: Session,
    name: PublishedName,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="The version that is to answer.", min=1)],
) -> None:
    """Let a version of a name answer.

    An earlier version rolls back.
    """
    show_record(session, "names", session.client.names.promote(name, version).raw)


@GROUPS["datasets"].command(
    "upload",
    cls=Command,
    epilog=examples(
        "fedlas datasets upload rows.npz --seen-by-model no",
        "fedlas datasets upload rows.csv --role label=diagnosis --role group=patient",
        "fedlas datasets upload new.parquet -o purpose=predict",
    ),
)
def upload_dataset(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="npz, csv, parquet, or a zip of class/image.png.")],
    *,
    name: Annotated[str | None, typer.Option(help="The record's name; by default that of the file.")] = None,
    role: RolePairs = None,
    seen_by_model: SeenByModel = None,
    option: Pairs = None,
    wait: Wait = True,
) -> None:
    """Upload a dataset and inspect it."""
    options = {"roles": roles_of(role), "seen_by_model": seen_by_model}
    options |= given_options(option, "--option", "DatasetOptions")
    record = sent(session, session.client.datasets.upload, file, name=name, wait=wait, **options)
    show_record(session, "datasets", record.raw)


@GROUPS["calibrators"].command(
    "create",
    cls=Command,
    epilog=examples(
        "fedlas calibrators create scores.npz --out calibrator.onnx",
        "fedlas calibrators create s.csv --require significant",
        table=TABLE,
    ),
)
def create_calibrator(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="SCORES", help="npz or csv: logits or probabilities, and labels.")],
    *,
    name: Annotated[str | None, typer.Option(help="The record's name; by default that of the file.")] = None,
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
