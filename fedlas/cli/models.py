"""`fedlas models` and `fedlas names`: classifiers, uploaded and calibrated, and which of them answers under a name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlas.cli.command import Command, Session, add_delete, add_ls, add_show, examples, group
from fedlas.cli.failures import about
from fedlas.cli.options import Limit, Pairs, PriorsInput, Wait, file_of, given_options, require_writable
from fedlas.cli.output import Column, size, transfer, when

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
NAMES = (
    Column("name", "name"),
    Column("answers", "default_version"),
    Column("model", lambda name: name["versions"].get(str(name["default_version"]))),
    Column("versions", lambda name: ", ".join(name["versions"])),
)
NAME = (
    *NAMES[:3],
    Column("versions", lambda name: "\n".join(f"{number}: {model}" for number, model in name["versions"].items())),
    Column("class priors", "class_priors"),
)
PublishedName = Annotated[str, typer.Argument(metavar="NAME", help="A published name.")]
app = group("Classifiers: list, download, promote, upload, delete.")
add_ls(app, "models", LIST)
add_show(app, "models", ModelId, ONE, "Show a model.\n\nUnder a published name it is the one that answers.", "digits")


@app.command(
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
            file_of(file), name=name or file.stem, wait=wait, on_upload=moved, **given_options(option, "--option")
        )
    session.output.record(record.raw, ONE)


@app.command(
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


@app.command("promote", cls=Command, epilog=examples("fedlas models promote digits 2"))
def promote(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A published name.")],
    version: Annotated[int, typer.Argument(metavar="VERSION", help="The version that is to answer.", min=1)],
) -> None:
    """Let a version of a name answer.

    An earlier version rolls back.
    """
    session.output.record(session.client.names.promote(name, version).raw, NAME, key="name")


add_delete(app, "models", ModelId, "Delete a model that is neither published nor in use.", "mdl_01k…")

names = group("Published names: which model answers under them.")


@names.command("ls", cls=Command, epilog=examples("fedlas names ls", "fedlas names ls -q"))
def ls_names(session: Session, *, limit: Limit = 20) -> None:
    """List published names in alphabetical order."""
    session.output.records((one.raw for one in session.client.names.list(limit=limit)), NAMES, key="name")


add_show(names, "names", PublishedName, NAME, "Show a name, its versions and the one that answers.", "digits", "name")
add_delete(
    names,
    "names",
    PublishedName,
    "Delete a name.\n\nIts models stay and answer under their ids.",
    "digits",
    "Delete the name {}, so that it answers no more?",
)
