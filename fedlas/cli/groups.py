"""Commands of groups beside those of the table: files that are sent, which model answers under a name, and batches.

Datasets are labelled rows, or rows that are only to be predicted; calibrators are made from scores, without the model
behind them; batches are predictions for all rows of a dataset, made by workers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

import typer

from fedlas.cli.command import AnswerCommand, Command, Session, examples
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
from fedlas.cli.output import Column, Json, count, share, size, transfer
from fedlas.cli.resources import GROUPS, BatchId, PublishedName, show_record

if TYPE_CHECKING:
    from fedlas.contract.keys import Scope

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
            roles=roles_of(role, scores=True),
            on_upload=moved,
            **given_options(option, "--option", "ScoresOptions"),
        )
        record = session.client.calibrators.wait(begun).raw
    if out is not None:
        session.client.calibrators.download(record["id"], out)
    show_record(session, "calibrators", record)
    return code_of_verdict(record["report"], require)


@GROUPS["keys"].command(
    "create",
    cls=Command,
    epilog=examples(
        "fedlas keys create web --scope predict --model digits",
        "fedlas keys create ci --scope read --scope write --days 90",
        "fedlas keys create prometheus --scope metrics -q",
    ),
)
def create_key(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The person or program that uses it.")],
    *,
    scope: Annotated[
        list[str], typer.Option(help="predict, read, write, metrics; admin for everything. May be repeated.")
    ],
    model: Annotated[
        list[str] | None, typer.Option(help="A name or id that it may ask, with predict alone. May be repeated.")
    ] = None,
    days: Annotated[float | None, typer.Option(help="After so many days it is refused.", min=0)] = None,
) -> None:
    """Create a key with scopes.

    It is shown this once; -q prints it alone.
    """
    expires = None if days is None else timedelta(days=days)
    issued = session.client.keys.create(name, cast("list[Scope]", scope), models=model, expires=expires).raw
    show_record(session, "keys", issued, key="key")


PARTS = (
    Column("number", "number"),
    Column("first row", "first_row", count),
    Column("rows", "num_rows", count),
    Column("size", "bytes", size),
    Column("sha256", "sha256"),
)
#: A batch is asked for this often while it is watched.
_LOOK_S = 2.0
_FORMATS = (".parquet", ".csv", ".ndjson", ".jsonl")


@GROUPS["batches"].command(
    "create",
    cls=AnswerCommand,
    epilog=examples(
        "fedlas batches create digits ds_01k… --watch",
        "fedlas batches create digits ds_01k… --errors column --out answers.parquet",
    ),
)
def create(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A published name, or the id of a model.")],
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The id of a dataset, ds_….")],
    *,
    errors: Annotated[
        Literal["fail", "column"] | None,
        typer.Option(help="A row without an answer: fail ends the batch, column has it say why."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait until it has ended.")] = False,
    out: Out = None,
) -> None:
    """Create predictions for all rows of a dataset.

    A large one is done in shards, by all workers. --out waits for the answers and writes them.
    """
    require_writable(out, *_FORMATS)
    record: Json = session.client.batches.create(model, dataset, errors=errors, **session.answers).raw
    if watch or out is not None:
        session.output.note(f"{record['id']} is created: {session.page('batches', record['id'])}")
        record = _ended(session, record["id"])
    if out is not None:
        _fetch(session, record["id"], out)
    show_record(session, "batches", record)


@GROUPS["batches"].command("watch", cls=Command, epilog=examples("fedlas batches watch bat_01k…"))
def watch(session: Session, batch: BatchId) -> None:
    """Watch a batch to its end."""
    show_record(session, "batches", _ended(session, batch))


@GROUPS["batches"].command(
    "download", cls=Command, epilog=examples("fedlas batches download bat_01k… --out answers.csv")
)
def download(session: Session, batch: BatchId, *, out: Out = None) -> None:
    """Download all answers, in the order of the dataset.

    The file's name says what it becomes: .parquet, .csv or .ndjson; BATCH.parquet without --out.
    """
    file = out or Path(f"{batch}.parquet")
    require_writable(file, *_FORMATS)
    _fetch(session, batch, file)
    session.output.lines([str(file)])


@GROUPS["batches"].command(
    "manifest",
    cls=Command,
    epilog=examples("fedlas batches manifest bat_01k…", "fedlas batches manifest bat_01k… --json"),
)
def manifest(session: Session, batch: BatchId) -> None:
    """List the parts that the answers are stored in.

    Each is a Parquet file of neighbouring rows, to be read in parallel; -q prints their numbers.
    """
    document = session.client.batches.manifest(batch).raw
    if session.output.json:
        session.output.record(document, ())
    else:
        session.output.records(document["parts"], PARTS, key="number")


def _ended(session: Session, batch_id: str) -> Json:
    """The batch at its end, with a bar until then; raises JobFailed."""
    from fedlas.client.errors import WaitTimeout

    with share(session.output) as moved:
        while True:
            record = session.client.batches.get(batch_id)
            moved(record.status, record.progress.fraction)
            with suppress(WaitTimeout):
                return session.client.batches.wait(batch_id, wait_timeout=_LOOK_S).raw


def _fetch(session: Session, batch_id: str, file: Path) -> None:
    with transfer(session.output, f"downloading {file.name}") as moved:
        session.client.batches.download(batch_id, file, on_progress=moved)
