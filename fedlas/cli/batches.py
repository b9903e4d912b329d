"""`fedlas batches`: predictions for all rows of a stored dataset, made by workers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from fedlas.cli.command import Run, Session, command, group
from fedlas.cli.files import require_writable
from fedlas.cli.options import After, AnswerOptions, Before, Limit, Out, Status, Yes, confirm
from fedlas.cli.output import Column, Json, count, percent, size, when
from fedlas.cli.progress import share, transfer
from fedlas.cli.records import as_json, as_jsons

LIST = (
    Column("id", "id"),
    Column("status", "status"),
    Column("done", "progress.fraction", percent),
    Column("rows", "num_rows", count),
    Column("rows without an answer", "num_errors", count),
    Column("created", "created_at", when),
)
ONE = (
    *LIST[:3],
    Column("waiting for", "waiting_for"),
    Column("error", lambda one: one["error"] and f"{one['error']['code']}: {one['error']['message']}"),
    *LIST[3:5],
    Column("model", "model_id"),
    Column("dataset", "dataset_id"),
    Column("results", "results_url"),
    Column("manifest", "manifest_url"),
    LIST[5],
    Column("finished", "finished_at", when),
)
PARTS = (
    Column("number", "number"),
    Column("first row", "first_row", count),
    Column("rows", "num_rows", count),
    Column("size", "bytes", size),
    Column("sha256", "sha256"),
)
BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="The id of a batch, bat_….")]
#: A batch is asked for this often while it is watched.
_LOOK_S = 2.0
_FORMATS = (".parquet", ".csv", ".ndjson", ".jsonl")


def register(app: typer.Typer) -> None:
    """Add the group."""
    batches = group(app, "batches", "Predictions for all rows of a stored dataset.")
    for name, (run, examples) in _COMMANDS.items():
        command(batches, name, examples=[f"fedlas batches {name} {example}".rstrip() for example in examples])(run)


def _ls(
    session: Session,
    *,
    limit: Limit = 20,
    status: Status = None,
    created_after: After = None,
    created_before: Before = None,
) -> None:
    """List batches, newest first."""
    found = session.client.batches.list(
        limit=limit, status=status, created_after=created_after, created_before=created_before
    )
    session.output.records(as_jsons(found), LIST)


def _show(session: Session, batch: BatchId) -> None:
    """Show a batch."""
    session.output.record(as_json(session.client.batches.get(batch)), ONE)


def _create(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A published name, or the id of a model.")],
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The id of a dataset, ds_….")],
    *,
    errors: Annotated[
        str | None, typer.Option(help="A row without an answer: fail ends the batch, column has it say why.")
    ] = None,
    options: AnswerOptions,
    watch: Annotated[bool, typer.Option("--watch", help="Wait until it has ended.")] = False,
    out: Out = None,
) -> None:
    """Order predictions for all rows of a dataset.

    A large one is done in shards, by all workers. --out waits for the answers and writes them.
    """
    require_writable(out, *_FORMATS)
    record = as_json(session.client.batches.create(model, dataset, errors=errors, **options))
    if watch or out is not None:
        session.output.note(f"{record['id']} is ordered")
        record = _ended(session, record["id"])
    if out is not None:
        _fetch(session, record["id"], out)
    session.output.record(record, ONE)


def _watch(session: Session, batch: BatchId) -> None:
    """Watch a batch to its end."""
    session.output.record(_ended(session, batch), ONE)


def _download(session: Session, batch: BatchId, *, out: Out = None) -> None:
    """Download all answers, in the order of the dataset.

    The file's name says what it becomes: .parquet, .csv or .ndjson; BATCH.parquet without --out.
    """
    file = out or Path(f"{batch}.parquet")
    require_writable(file, *_FORMATS)
    _fetch(session, batch, file)
    session.output.lines([str(file)])


def _manifest(session: Session, batch: BatchId) -> None:
    """List the parts that the answers are stored in.

    Each is a Parquet file of neighbouring rows, to be read in parallel; -q prints their numbers.
    """
    found = as_json(session.client.batches.manifest(batch))
    if session.output.json:
        session.output.record(found, ())
    else:
        session.output.records(found["parts"], PARTS, key="number")


def _delete(session: Session, batch: BatchId, *, yes: Yes = False) -> None:
    """Delete a batch that has ended, with its answers."""
    confirm(f"Delete {batch} with its answers?", yes=yes)
    session.client.batches.delete(batch)
    session.output.lines([batch])


def _ended(session: Session, batch_id: str) -> Json:
    """The batch at its end, with a bar until then; raises JobFailed."""
    from fedlas.client.errors import WaitTimeout

    with share(session.output) as moved:
        while True:
            record = session.client.batches.get(batch_id)
            moved(record.status, record.progress.fraction)
            with suppress(WaitTimeout):
                return as_json(session.client.batches.wait(batch_id, timeout=_LOOK_S))


def _fetch(session: Session, batch_id: str, file: Path) -> None:
    with transfer(session.output, f"downloading {file.name}") as moved:
        session.client.batches.download(batch_id, file, on_progress=moved)


#: Each with its examples.
_COMMANDS: dict[str, tuple[Run, Sequence[str]]] = {
    "ls": (_ls, ["", "--status running -q"]),
    "show": (_show, ["bat_01k…"]),
    "create": (_create, ["digits ds_01k… --watch", "digits ds_01k… --errors column --out answers.parquet"]),
    "watch": (_watch, ["bat_01k…"]),
    "download": (_download, ["bat_01k… --out answers.csv"]),
    "manifest": (_manifest, ["bat_01k…", "bat_01k… --json"]),
    "delete": (_delete, ["bat_01k… --yes"]),
}
