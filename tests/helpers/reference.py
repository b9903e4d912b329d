"""Lists of names in `docs/reference`, for those who read the repository rather than the site; made of the code.

`python -m tests.helpers.reference` writes them. A list stands between what it is made of, which the site shows in its
place (docs/hooks.py), and `<!-- /generated -->`: a directive of mkdocstrings, or the name of a table.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import typer.main
import yaml

from docs import hooks
from fedlas.cli.app import app

PAGES = sorted((Path(__file__).parents[2] / "docs" / "reference").glob("*.md"))


def filled(text: str) -> str:
    """A page with its lists as the code has them."""
    return hooks.GENERATED_PART.sub(lambda found: f"{found['mark']}\n{_list(found)}\n{hooks.END}", text)


def _list(found: re.Match[str]) -> str:
    if found["directive"]:
        return _names(found["directive"])
    return _commands() if found["name"] == "commands" else hooks.GENERATED[found["name"]]()


def _names(directive: str) -> str:
    """The names that a directive of mkdocstrings lists, a line each, with the first paragraph of its docstring."""
    path, _, options = directive.partition("\n")
    chosen = (yaml.safe_load(options) or {}).get("options", {})
    shown = _object(path.removeprefix("::: ").strip())
    members = chosen.get("members") or list(_public(shown, inherited=chosen.get("inherited_members", False)))
    rows = [] if inspect.ismodule(shown) else [_row(_signature(shown.__name__, shown), shown)]
    owner = f"{shown.__name__}." if inspect.isclass(shown) else ""
    rows += [_row(_signature(owner + name, getattr(shown, name)), getattr(shown, name)) for name in members]
    return "\n".join(["", "| | |", "|---|---|", *rows, ""])


def _object(path: str) -> Any:
    """A module, or what stands in one."""
    try:
        return import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(_object(module), name)


def _public(shown: Any, *, inherited: bool) -> Iterator[str]:
    """Names that are meant for others: of a module, those of `__all__` or its own; a class' methods and properties."""
    if inspect.ismodule(shown):
        own = [name for name, one in vars(shown).items() if getattr(one, "__module__", "") == shown.__name__]
        yield from getattr(shown, "__all__", [name for name in own if not name.startswith("_")])
    elif inspect.isclass(shown):
        names = dir(shown) if inherited else vars(shown)
        yield from (name for name in names if not name.startswith("_") and _is_ours(getattr(shown, name)))


def _is_ours(member: Any) -> bool:
    """True where a class has it of us, with a docstring of its own: scikit-learn adds methods.

    A field's default has that of its type at most; since Python 3.13 `None` has one, too.
    """
    documented = inspect.getdoc(member) not in (None, "", inspect.getdoc(type(member)))
    return documented and not str(getattr(member, "__module__", "")).startswith("sklearn")


def _signature(name: str, shown: Any) -> str:
    """`name(a, b, …)` for what is called, with the arguments that have no default."""
    if not (inspect.isfunction(shown) or inspect.ismethod(shown)):
        return name
    given = [one for one in inspect.signature(shown).parameters.values() if one.name != "self"]
    needed = [
        one.name for one in given if one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    ]
    return f"{name}({', '.join([*needed, '…'] if len(given) > len(needed) else needed)})"


def _row(name: str, shown: Any) -> str:
    if isinstance(shown, Collection):
        return _cells(name, ", ".join(f"`{one}`" for one in shown))
    return _cells(name, inspect.getdoc(shown) or "")


def _cells(name: str, text: str) -> str:
    first = " ".join(text.split("\n\n")[0].split()).replace("|", "&#124;")
    return f"| `{name}` | {first} |"


def _commands() -> str:
    """Every command, with its first sentence."""
    return "\n".join(["", "| | |", "|---|---|", *_under("fedlas", typer.main.get_command(app)), ""])


def _under(name: str, command: Any) -> Iterator[str]:
    if isinstance(command, click.Group) or hasattr(command, "commands"):
        for part, inner in command.commands.items():
            yield from _under(f"{name} {part}", inner)
    elif not command.hidden:
        yield _cells(name, command.help or "")


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text()))
