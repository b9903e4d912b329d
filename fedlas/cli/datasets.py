"""`fedlas datasets`: labelled rows, and rows that are only to be predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlas.cli.command import Session, command, group
from fedlas.cli.failures import about
from fedlas.cli.files import file_of
from fedlas.cli.options import (
    After,
    Before,
    Limit,
    Name,
    Pairs,
    RolePairs,
    SeenByModel,
    Status,
    Wait,
    Yes,
    confirm,
    given_options,
    roles_of,
)
from fedlas.cli.output import Column, count, size, when
from fedlas.cli.progress import transfer
from fedlas.cli.records import as_json, as_jsons

LIST = (
    Column("id", "id"),
    Column("name", "name"),
    Column("status", "status"),
    Column("rows", "num_samples", count),
    Column("classes", "num_classes"),
    Column("seen by model", "seen_by_model"),
    Column("size", "bytes", size),
    Column("created", "created_at", when),
)
ONE = (
    *LIST[:3],
    Column("waiting for", "waiting_for"),
    Column("error", lambda data: data["error"] and f"{data['error']['code']}: {data['error']['message']}"),
    Column("format", "format"),
    *LIST[3:4],
    Column("classes", lambda data: ", ".join((data["class_names"] or ())[:20])),
    Column(
        "splits", lambda data: ", ".join(f"{split} {rows:,}" for split, rows in (data["splits"] or {}).items() if rows)
    ),
    Column("roles", lambda data: ", ".join(f"{role} {name}" for role, name in (data["roles"] or {}).items() if name)),
    *LIST[5:6],
    Column("warnings", lambda data: "\n".join(data["warnings"]) or None),
    Column("done for you", lambda data: "\n".join(a["message"] for a in data["adjustments"]) or None),
    *LIST[6:],
    Column("sha256", "sha256"),
)
DatasetId = Annotated[str, typer.Argument(metavar="DATASET", help="The id of a dataset, ds_….")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    datasets = group(app, "datasets", "Labelled rows: list, upload, delete.")

    @command(datasets, "ls", examples=["fedlas datasets ls", "fedlas datasets ls --status rejected --json"])
    def ls(
        session: Session,
        *,
        limit: Limit = 20,
        status: Status = None,
        name: Name = None,
        created_after: After = None,
        created_before: Before = None,
    ) -> None:
        """List datasets, newest first."""
        found = session.client.datasets.list(
            limit=limit, status=status, name=name, created_after=created_after, created_before=created_before
        )
        session.output.records(as_jsons(found), LIST)

    @command(datasets, "show", examples=["fedlas datasets show ds_01k…", "fedlas datasets show ds_01k… --json"])
    def show(session: Session, dataset: DatasetId) -> None:
        """Show a dataset."""
        session.output.record(as_json(session.client.datasets.get(dataset)), ONE)

    examples = [
        "fedlas datasets upload rows.npz --seen-by-model no",
        "fedlas datasets upload rows.csv --role label=diagnosis --role group=patient",
        "fedlas datasets upload new.parquet -o purpose=predict",
    ]

    @command(datasets, "upload", examples=examples)
    def upload(
        session: Session,
        file: Annotated[Path, typer.Argument(metavar="FILE", help="npz, csv, parquet, or a zip of class/image.png.")],
        *,
        name: Annotated[str | None, typer.Option(help="What it is called; the file's name without this.")] = None,
        role: RolePairs = None,
        seen_by_model: SeenByModel = None,
        option: Pairs = None,
        wait: Wait = True,
    ) -> None:
        """Upload a dataset and inspect it."""
        with about(file), transfer(session.output, f"uploading {file.name}", then=f"inspecting {file.name}") as moved:
            record = session.client.datasets.upload(
                file_of(file),
                name=name or file.stem,
                roles=roles_of(role),
                seen_by_model=seen_by_model,
                wait=wait,
                on_upload=moved,
                **given_options(option, "--option"),
            )
        session.output.record(as_json(record), ONE)

    @command(datasets, "delete", examples=["fedlas datasets delete ds_01k… --yes"])
    def delete(session: Session, dataset: DatasetId, *, yes: Yes = False) -> None:
        """Delete a dataset that no open job or batch needs."""
        confirm(f"Delete {dataset}?", yes=yes)
        session.client.datasets.delete(dataset)
        session.output.lines([dataset])
