"""`fedlas datasets`: upload of labelled rows, and of rows that are only to be predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedlas.cli.command import Command, Session, examples
from fedlas.cli.failures import about
from fedlas.cli.options import Pairs, RolePairs, SeenByModel, Wait, file_of, given_options, roles_of
from fedlas.cli.output import transfer
from fedlas.cli.resources import GROUPS, show_record


@GROUPS["datasets"].command(
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
            **given_options(option, "--option", "DatasetOptions"),
        )
    show_record(session, "datasets", record.raw)
