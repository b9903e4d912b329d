"""`fedlas names`: published names and the versions that answer under them."""

from __future__ import annotations

from typing import Annotated

import typer

from fedlas.cli.command import Session, command, group
from fedlas.cli.options import Limit, Yes, confirm
from fedlas.cli.output import Column
from fedlas.cli.records import as_json, as_jsons

LIST = (
    Column("name", "name"),
    Column("answers", "default_version"),
    Column("model", lambda name: name["versions"].get(str(name["default_version"]))),
    Column("versions", lambda name: ", ".join(name["versions"])),
)
ONE = (
    *LIST[:3],
    Column("versions", lambda name: "\n".join(f"{number}: {model}" for number, model in name["versions"].items())),
    Column("class priors", "class_priors"),
)
PublishedName = Annotated[str, typer.Argument(metavar="NAME", help="A published name.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    names = group(app, "names", "Published names: which model answers under them.")

    @command(names, "ls", examples=["fedlas names ls", "fedlas names ls -q"])
    def ls(session: Session, *, limit: Limit = 20) -> None:
        """List published names in alphabetical order."""
        session.output.records(as_jsons(session.client.names.list(limit=limit)), LIST, key="name")

    @command(names, "show", examples=["fedlas names show digits"])
    def show(session: Session, name: PublishedName) -> None:
        """Show a name, its versions and the one that answers."""
        session.output.record(as_json(session.client.names.get(name)), ONE, key="name")

    @command(names, "delete", examples=["fedlas names delete digits --yes"])
    def delete(session: Session, name: PublishedName, *, yes: Yes = False) -> None:
        """Delete a name.

        Its models stay and answer under their ids.
        """
        confirm(f"Delete the name {name}, so that it answers no more?", yes=yes)
        session.client.names.delete(name)
        session.output.lines([name])
