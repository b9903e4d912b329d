"""The shape that all commands share: common options, examples in the help, and a session that is handed in.

>>> import typer
>>> app = typer.Typer()
>>> @command(app, "hello", examples=["fedlas hello"])
... def hello(session: Session) -> None:
...     "Says hello."
...     session.output.lines(["hello"])
"""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedlas.cli.exits import ExitCode
from fedlas.cli.failures import CommandError, closed_pipe
from fedlas.cli.output import Format, Output

if TYPE_CHECKING:
    from fedlas.client import Client

Run = Callable[..., int | None]


class Session:
    """What a command works with: where it writes, and the service that it asks."""

    def __init__(self, output: Output, *, url: str | None, key: str | None, profile: str | None) -> None:
        self.output = output
        self._at = {"url": url, "key": key, "profile": profile}

    @cached_property
    def client(self) -> Client:
        """The client of the service; made when it is first asked."""
        from fedlas.client import Client

        return Client(self._at["url"], self._at["key"], profile=self._at["profile"], on_warning=self.output.note)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that name the same service to another process."""
        names = {"url": "FEDLAS_URL", "key": "FEDLAS_API_KEY", "profile": "FEDLAS_PROFILE"}
        return {names[part]: value for part, value in self._at.items() if value is not None}

    def command_line(self, *words: str) -> str:
        """A command for the same service, to be typed again; it never shows the key."""
        told = [f"--{name}={self._at[name]}" for name in ("url", "profile") if self._at[name]]
        return shlex.join(["fedlas", *words, *told])

    def close(self) -> None:
        """Close the connection, if there ever was one."""
        if "client" in vars(self):
            self.client.close()


def _common(
    format: Annotated[Format, typer.Option(help="Form of the result.")] = Format.auto,
    json: Annotated[bool, typer.Option("--json", help="--format json: as the API says it.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")] = False,
    url: Annotated[str | None, typer.Option(help="The service [env: FEDLAS_URL].")] = None,
    key: Annotated[str | None, typer.Option(help="The key for it [env: FEDLAS_API_KEY].")] = None,
    profile: Annotated[str | None, typer.Option(help="A section of the profile file [env: FEDLAS_PROFILE].")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose.")] = False,
) -> Session:
    """The session that the common options describe; `--debug` is read where errors are caught."""
    asked = {Format.json} if json else set()
    asked |= {Format.quiet} if quiet else set()
    asked |= {format} - {Format.auto}
    if len(asked) > 1:
        raise CommandError(f"only one form can be printed at a time, not {' and '.join(sorted(asked))}")
    return Session(Output(*asked), url=url, key=key, profile=profile)


_COMMON = inspect.signature(_common, eval_str=True).parameters


class Together:
    """Options that several commands share: `Annotated[T, Together(of)]`, where `of` makes the value of its options."""

    def __init__(self, of: Callable[..., object]) -> None:
        self.of = of
        self.parameters = inspect.signature(of, eval_str=True).parameters


def _spread(own: Sequence[inspect.Parameter]) -> tuple[list[inspect.Parameter], dict[str, Together]]:
    """The parameters with each group's options in its place, and the groups by the names of their parameters."""
    groups = {
        parameter.name: mark
        for parameter in own
        for mark in getattr(parameter.annotation, "__metadata__", ())
        if isinstance(mark, Together)
    }
    spread = [
        option
        for parameter in own
        for option in (groups[parameter.name].parameters.values() if parameter.name in groups else [parameter])
    ]
    return spread, groups


def command(app: typer.Typer, name: str, *, examples: Sequence[str], more: str = "") -> Callable[[Run], Run]:
    """Register a function as a command: it gets a `Session` and its own options, and may return an exit code.

    Args:
        examples: command lines for the help.
        more: what the help says below the docstring.
    """

    def register(run: Run) -> Run:
        signature = inspect.signature(run, eval_str=True)
        _, *own = signature.parameters.values()
        spread, groups = _spread(own)

        def called(**given: Any) -> int:
            session = _common(**{name: given.pop(name) for name in _COMMON})
            try:
                for name, group in groups.items():
                    given[name] = group.of(**{option: given.pop(option) for option in group.parameters})
                return int(run(session, **given) or 0)
            except KeyboardInterrupt:
                print("fedlas: interrupted", file=sys.stderr)
                raise typer.Exit(ExitCode.INTERRUPTED) from None
            except BrokenPipeError:
                raise typer.Exit(closed_pipe()) from None
            finally:
                session.close()

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*spread, *_COMMON.values())]
        called.__signature__ = signature.replace(parameters=parameters, return_annotation=int)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name, help=_help(run, more), epilog=examples_text(examples))(called)
        return run

    return register


def group(app: typer.Typer, name: str, help: str) -> typer.Typer:
    """A group of commands, such as `fedlas jobs`; without one it shows its help."""
    made = typer.Typer()
    made.callback(help=help, invoke_without_command=True)(show_help)
    app.add_typer(made, name=name)
    return made


def show_help(context: typer.Context) -> None:
    """Print the help of a group where none of its commands is asked for."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def examples_text(examples: Sequence[str]) -> str:
    """Command lines for the end of a help text; `\\b` keeps their lines as they are."""
    return "\n".join(["\b", "Examples:", *(f"  $ {example}" for example in examples)])


def _help(run: Run, more: str) -> str:
    return "\n\n".join([inspect.getdoc(run) or "", *([more] if more else [])])
