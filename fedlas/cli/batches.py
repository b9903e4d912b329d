"""`fedlas batches`: predictions for all rows of a stored dataset, made by workers."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from fedlas.cli.command import AnswerCommand, Command, Session, examples
from fedlas.cli.options import Out, require_writable
from fedlas.cli.output import Column, Json, count, share, size, transfer
from fedlas.cli.resources import GROUPS, BatchId, show_record

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
        session.output.note(f"{record['id']} is created")
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
    found = session.client.batches.manifest(batch).raw
    if session.output.json:
        session.output.record(found, ())
    else:
        session.output.records(found["parts"], PARTS, key="number")


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
