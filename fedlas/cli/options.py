"""Options and arguments that several commands share, and how their text is read."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlas.cli.exits import Require
from fedlas.cli.failures import CommandError

Limit = Annotated[int, typer.Option("--limit", "-n", help="At most so many, newest first.", min=1)]
Status = Annotated[str | None, typer.Option(help="Only those in this status.")]
Name = Annotated[str | None, typer.Option(help="Only those of this name.")]
After = Annotated[str | None, typer.Option("--created-after", help="Only those made after this time (RFC 3339).")]
Before = Annotated[str | None, typer.Option("--created-before", help="Only those made before this time.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Wait = Annotated[bool, typer.Option(help="Wait until the file has been inspected.")]
Pairs = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="KEY=VALUE", help="Any other parameter of the upload, as the API names it."),
]
RolePairs = Annotated[
    list[str] | None,
    typer.Option(
        "--role", metavar="ROLE=COLUMN", help="Column of a role: label, split, group, time, slices, weight, id."
    ),
]
SeenByModel = Annotated[
    str | None,
    typer.Option(help="Which rows the model was trained on: no, train_split or unknown.", metavar="WHICH"),
]
RequireOption = Annotated[Require, typer.Option(help="What must have come of it for exit code 0.")]
Out = Annotated[Path | None, typer.Option("--out", help="The file to write.", dir_okay=False)]


def pairs_of(given: Sequence[str] | None, option: str = "--option", form: str = "KEY=VALUE") -> dict[str, str]:
    """`KEY=VALUE` pairs by their key."""
    found: dict[str, str] = {}
    for pair in given or ():
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise CommandError(f"{option} needs {form}, found {pair!r}")
        found[key] = value
    return found


def upload_options(
    given: Sequence[str] | None, upload: Callable[..., object], option: str = "--option"
) -> dict[str, Any]:
    """Parameters of an upload by their name, lists and objects as JSON; what a service takes it says itself."""
    found = {name: _value(text) for name, text in pairs_of(given, option).items()}
    parameters = inspect.signature(upload).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return found
    known = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    if strange := sorted(set(found) - set(known)):
        raise CommandError(f"{option}: {strange[0]!r} is no parameter of this upload; there are {', '.join(known)}")
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text) if text[0] in "[{" else text
    except ValueError:
        return text


def roles_of(given: Sequence[str] | None) -> dict[str, str] | None:
    """Columns by their role; None where none is given."""
    return pairs_of(given, "--role", "ROLE=COLUMN") or None


def minutes_of(text: str) -> float:
    """A budget: minutes, or a number with `s`, `m` or `h` behind it."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if match is None:
        raise CommandError(f"--budget needs minutes, or a time such as 90s, 30m or 2h, found {text!r}")
    return float(match[1]) * {"s": 1 / 60, "": 1, "m": 1, "h": 60}[match[2]]


def object_of(text: str, option: str) -> dict[str, Any]:
    """A JSON object, written out or in a file behind an `@`."""
    try:
        found = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except ValueError as error:
        raise CommandError(f"{option} needs a JSON object, or @FILE with one: {error}") from error
    if not isinstance(found, dict):
        raise CommandError(f"{option} needs a JSON object, found {type(found).__name__}")
    return found


def number_or_object(text: str, option: str) -> float | dict[str, Any]:
    """A number, or a JSON object, such as one for each class."""
    try:
        return float(text)
    except ValueError:
        return object_of(text, option)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is lost; where nobody can be asked, `--yes` must have been said."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CommandError(f"{question} There is nobody to ask here; --yes says so beforehand")
    if not typer.confirm(question, err=True):
        raise CommandError("nothing was done")
