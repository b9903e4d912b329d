"""`fedlas models`: upload of classifiers, and which of them answers under a name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlas.cli.command import Command, Session, examples
from fedlas.cli.failures import about
from fedlas.cli.options import Pairs, Wait, file_of, given_options
from fedlas.cli.output import transfer
from fedlas.cli.resources import GROUPS, PublishedName, show_record


@GROUPS["models"].command(
    "upload",
    cls=Command,
    epilog=examples("fedlas models upload m.onnx --name digits", "fedlas models upload m.onnx -o class_names=cat,dog"),
)
def upload(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="ONNX, its weights beside it, or safetensors.")],
    *,
    name: Annotated[str | None, typer.Option(help="What it is called; the file's name without this.")] = None,
    option: Pairs = None,
    wait: Wait = True,
) -> None:
    """Upload a model and inspect it."""
    with about(file), transfer(session.output, f"uploading {file.name}", then=f"inspecting {file.name}") as moved:
        record = session.client.models.upload(
            file_of(file),
            name=name or file.stem,
            wait=wait,
            on_upload=moved,
            **given_options(option, "--option", "ModelOptions"),
        )
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
