"""Commands that run a service rather than ask one, found by the entry-point group `fedlas.commands`; and the version.

The library knows no more of them than their names and sentences: each is a callable of its arguments that returns an
exit code, and where what it needs is not installed, it says which extra to install.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from fedlas import __version__
from fedlas.cli.command import Session, command
from fedlas.cli.failures import CommandError
from fedlas.extras import command as install

_GROUP = "fedlas.commands"
#: Where a module is missing that is no other's, something is broken.
_OURS = ("fedlas", "service", "worker")
#: Name → the sentence in the help, and the extra that brings what it needs.
_COMMANDS = {
    "serve": ("Run API, worker and broker on this machine.", "standalone"),
    "api": ("Run the API alone, for workers elsewhere.", "service"),
    "demo": ("Calibrate an overconfident classifier of digits.", "standalone"),
    "openapi": ("Write the OpenAPI document to a file.", "service"),
}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, (sentence, _) in _COMMANDS.items():
        settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
        app.command(name, help=sentence, add_help_option=False, context_settings=settings)(_run)

    examples = ["fedlas doctor", "fedlas doctor --url https://fedlas.example.org --json"]

    @command(app, "doctor", examples=examples)
    def examine(
        session: Session,
        *,
        timeout: Annotated[float, typer.Option(metavar="SECONDS", help="For each check.", min=1)] = 10,
    ) -> int:
        """Examine the installation, with remedies.

        What is installed, which devices are really used, what the sandbox can do here, and what is reachable. The exit
        code is 1 where anything fails.
        """
        os.environ.update(session.environment)  # the checks read the variables that name the service
        from fedlas.cli import doctor

        return doctor.run(as_json=session.output.json, quiet=session.output.quiet, seconds=timeout)

    @command(app, "version", examples=["fedlas version", "fedlas version --json"])
    def version(session: Session) -> None:
        """Print the version of this program."""
        session.output.record({"version": __version__}, [], key="version") if session.output.json else print_version()


def print_version() -> None:
    """The version, as a script reads it."""
    print(__version__)


def _run(context: typer.Context) -> int:
    """Hand the arguments over as they are."""
    from importlib.metadata import entry_points

    name = context.info_name or ""
    found = entry_points(group=_GROUP, name=name)
    needed = install(_COMMANDS[name][1])
    if not found:
        raise CommandError(f"`fedlas {name}` is not installed: {needed}")
    try:
        code: int = found[name].load()(context.args)
        return code
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in _OURS:
            raise
        raise CommandError(f"`fedlas {name}` needs {module}, which is not installed: {needed}") from error
