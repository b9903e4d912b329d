"""`fedlas models`: classifiers, uploaded and calibrated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlas.cli import names
from fedlas.cli.command import Session, command, group
from fedlas.cli.failures import about
from fedlas.cli.files import file_of, require_writable
from fedlas.cli.options import After, Before, Limit, Name, Pairs, PriorsInput, Status, Wait, Yes, confirm, given_options
from fedlas.cli.output import Column, size, when
from fedlas.cli.progress import transfer
from fedlas.cli.records import as_json, as_jsons

LIST = (
    Column("id", "id"),
    Column("name", "name"),
    Column("version", "version"),
    Column("status", "status"),
    Column("calibrated", "calibrated"),
    Column("classes", "num_classes"),
    Column("size", "bytes", size),
    Column("created", "created_at", when),
)
ONE = (
    *LIST[:4],
    Column("waiting for", "waiting_for"),
    Column("error", lambda model: model["error"] and f"{model['error']['code']}: {model['error']['message']}"),
    Column("origin", "origin"),
    Column("made from", "parent_id"),
    Column("job", "job_id"),
    Column("format", "format"),
    Column("inputs", lambda model: ", ".join(f"{i['name']} {i['shape']} {i['dtype']}" for i in model["inputs"] or ())),
    Column("classes", lambda model: ", ".join((model["class_names"] or ())[:20])),
    Column("trainable", "trainable"),
    Column("warnings", lambda model: "\n".join(model["warnings"]) or None),
    Column("done for you", lambda model: "\n".join(a["message"] for a in model["adjustments"]) or None),
    *LIST[6:],
    Column("sha256", "sha256"),
)
ModelId = Annotated[str, typer.Argument(metavar="MODEL", help="A published name, or the id of a model, mdl_….")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    models = group(app, "models", "Classifiers: list, download, promote, upload, delete.")

    @command(models, "ls", examples=["fedlas models ls", "fedlas models ls --name digits --json"])
    def ls(
        session: Session,
        *,
        limit: Limit = 20,
        status: Status = None,
        name: Name = None,
        created_after: After = None,
        created_before: Before = None,
    ) -> None:
        """List models, newest first."""
        found = session.client.models.list(
            limit=limit, status=status, name=name, created_after=created_after, created_before=created_before
        )
        session.output.records(as_jsons(found), LIST)

    @command(models, "show", examples=["fedlas models show digits", "fedlas models show mdl_01k… --json"])
    def show(session: Session, model: ModelId) -> None:
        """Show a model.

        Under a published name it is the one that answers.
        """
        session.output.record(as_json(session.client.models.get(model)), ONE)

    examples = ["fedlas models upload m.onnx --name digits", "fedlas models upload m.onnx -o class_names=cat,dog"]

    @command(models, "upload", examples=examples)
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
                **given_options(option, "--option"),
            )
        session.output.record(as_json(record), ONE)

    examples = ["fedlas models download digits", "fedlas models download mdl_01k… --out calibrated.onnx"]

    @command(models, "download", examples=examples)
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
            session.client.models.download(
                model, file, class_priors="input" if priors_input else None, on_progress=moved
            )
        session.output.lines([str(file)])

    @command(models, "promote", examples=["fedlas models promote digits 2"])
    def promote(
        session: Session,
        name: Annotated[str, typer.Argument(metavar="NAME", help="A published name.")],
        version: Annotated[int, typer.Argument(metavar="VERSION", help="The version that is to answer.", min=1)],
    ) -> None:
        """Let a version of a name answer.

        An earlier version rolls back.
        """
        session.output.record(as_json(session.client.names.promote(name, version)), names.ONE, key="name")

    @command(models, "delete", examples=["fedlas models delete mdl_01k… --yes"])
    def delete(session: Session, model: ModelId, *, yes: Yes = False) -> None:
        """Delete a model that is neither published nor in use."""
        confirm(f"Delete {model}?", yes=yes)
        session.client.models.delete(model)
        session.output.lines([model])
