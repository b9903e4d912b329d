"""The shape that all commands share: common options, a session as their context, examples in the help, and groups."""

# Annotations here are objects: Typer reads those of functions that are made for a group.

import shlex
import sys
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperOption
from typer.main import get_command

from fedlas.cli.failures import ExitCode, UsageError, closed_pipe
from fedlas.cli.options import answer_options
from fedlas.cli.output import Format, Output

if TYPE_CHECKING:
    from fedlas.client import Client

Parameters = list[TyperArgument | TyperOption]


class Session(typer.Context):
    """The context of a command: where it writes, the service that it asks (`at`), and what was asked of `answers`."""

    output: Output
    at: dict[str, str | None]
    answers: dict[str, Any]

    @cached_property
    def client(self) -> "Client":
        """The client of the service; made when it is first asked, and closed with the command."""
        from fedlas.client import Client

        return self.with_resource(
            Client(self.at["url"], self.at["key"], profile=self.at["profile"], on_warning=self.output.note)
        )

    def page(self, noun: str, record: str) -> str:
        """The address of a record's page."""
        return f"{self.client.url}/{noun}/{record}"

    def command_line(self, *words: str) -> str:
        """A command for the same service, to be typed again; it never shows the key."""
        told = [f"--{name}={self.at[name]}" for name in ("url", "profile") if self.at[name]]
        return shlex.join(["fedlas", *words, *told])


def configure(
    session: Session,
    format: Annotated[Format, typer.Option(help="Form of the result.")] = Format.auto,
    json: Annotated[bool, typer.Option("--json", help="--format json: as the API says it.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")] = False,
    url: Annotated[str | None, typer.Option(help="The service [env: FEDLAS_URL].")] = None,
    key: Annotated[str | None, typer.Option(help="The key for it [env: FEDLAS_API_KEY].")] = None,
    profile: Annotated[str | None, typer.Option(help="A section of the profile file [env: FEDLAS_PROFILE].")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose.")] = False,
) -> None:
    """Take the common options; `--debug` is read where errors are caught."""
    asked = {Format.json} if json else set()
    asked |= {Format.quiet} if quiet else set()
    asked |= {Format(format)} - {Format.auto}
    if len(asked) > 1:
        raise UsageError(f"only one form can be printed at a time, not {' and '.join(sorted(asked))}")
    session.output = Output(*asked)
    session.at = {"url": url, "key": key, "profile": profile}


def _options_of(function: Callable[..., Any]) -> Parameters:
    app = typer.Typer(add_completion=False)
    app.command()(function)
    return [option for option in get_command(app).params if isinstance(option, TyperOption)]


_COMMON = _options_of(configure)
_ANSWERS = _options_of(answer_options)


class Command(TyperCommand):
    """A command with the common options; its function takes a `Session` and may return an exit code."""

    context_class = Session

    def __init__(self, *args: Any, params: Parameters, **settings: Any) -> None:
        super().__init__(*args, params=[*params, *_COMMON], **settings)

    def invoke(self, session: Any) -> Any:
        try:
            configure(session, **_taken(session, _COMMON))
            return super().invoke(session)
        except KeyboardInterrupt:
            print("fedlas: interrupted", file=sys.stderr)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            raise typer.Exit(closed_pipe()) from None


class AnswerCommand(Command):
    """A command with the options of answers besides, which stand in `session.answers`."""

    def __init__(self, *args: Any, params: Parameters, **settings: Any) -> None:
        super().__init__(*args, params=[*params, *_ANSWERS], **settings)

    def invoke(self, session: Any) -> Any:
        session.answers = answer_options(**_taken(session, _ANSWERS))
        return super().invoke(session)


def _taken(session: Session, options: Parameters) -> dict[str, Any]:
    """The values of these options, which the command's function does not get."""
    return {option.name: session.params.pop(option.name) for option in options if option.name}


def examples(*lines: str, table: str = "") -> str:
    """Command lines for the end of a help text, where `\\b` keeps lines as they are; and a table below them."""
    return "\n".join(["\b", "Examples:", *(f"  $ {line}" for line in lines), *(["", table] if table else [])])


def group(help: str) -> typer.Typer:
    """A group of commands, such as `fedlas jobs`; without one it shows its help."""
    return typer.Typer(help=help, callback=show_help, invoke_without_command=True)


def show_help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
