"""`fedlas models`: upload and download of classifiers, and which of them answers under a name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlas.cli.command import Command, Session, examples
from fedlas.cli.failures import about
from fedlas.cli.options import Pairs, PriorsInput, Wait, file_of, given_options, require_writable
from fedlas.cli.output import transfer
from fedlas.cli.resources import GROUPS, ModelId, PublishedName, show


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
    show(session, "models", record.raw)


@GROUPS["models"].command(
    "download",
    cls=Command,
    epilog=examples("fedlas models download digits", "fedlas models download mdl_01k… --out calibrated.onnx"),
)
def download(
    session: Session,
    model: ModelId,
    *,
    out: Annotated[Path | None, typer.Option(help="The file to write; MODEL.onnx without this.")] = None,
    priors_input: PriorsInput = False,
) -> None:
    """Download the ONNX file of a model.

    Its digest is checked.
    """
    file = out or Path(f"{model}.onnx")
    require_writable(file)
    with transfer(session.output, f"downloading {file.name}") as moved:
        session.client.models.download(model, file, class_priors="input" if priors_input else None, on_progress=moved)
    session.output.lines([str(file)])


@GROUPS["models"].command("promote", cls=Command, epilog=examples("fedlas models promote digits 2"))
def promote(
    session: Session,
    name: PublishedName,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="The version that is to answer.", min=1)],
) -> None:
    """Let a version of a name answer.

    An earlier version rolls back.
    """
    show(session, "names", session.client.names.promote(name, version).raw)
