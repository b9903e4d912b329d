"""`fedlas datasets`: labelled rows, and rows that are only to be predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlas.cli.command import Command, Session, add_delete, add_ls, add_show, examples, group
from fedlas.cli.failures import about
from fedlas.cli.options import Pairs, RolePairs, SeenByModel, Wait, file_of, given_options, roles_of
from fedlas.cli.output import Column, count, size, transfer, when

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
app = group("Labelled rows: list, upload, delete.")
add_ls(app, "datasets", LIST)
add_show(app, "datasets", DatasetId, ONE, "Show a dataset.", "ds_01k…")


@app.command(
    "upload",
    cls=Command,
    epilog=examples(
        "fedlas datasets upload rows.npz --seen-by-model no",
        "fedlas datasets upload rows.csv --role label=diagnosis --role group=patient",
        "fedlas datasets upload new.parquet -o purpose=predict",
    ),
)
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
    session.output.record(record.raw, ONE)


add_delete(app, "datasets", DatasetId, "Delete a dataset that no open job or batch needs.", "ds_01k…")
