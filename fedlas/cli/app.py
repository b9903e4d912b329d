"""The command `fedlas`: its groups and commands, and what becomes of everything that they raise.

Commands that run a service rather than ask one are found by the entry-point group `fedlas.commands`, which the
distribution `fedlas-service` fills. The library knows no more of them than their names and sentences: each is a
callable of its arguments that returns an exit code, and where what it needs is not installed, the extra to install is
named.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from fedlas import __version__
from fedlas.cli import calibrate, jobs, predict, scores
from fedlas.cli.command import AnswerCommand, Command, Session, examples, show_help
from fedlas.cli.failures import TABLE, CommandError, ExitCode, closed_pipe, told
from fedlas.cli.resources import GROUPS
from fedlas.extras import command as install

_HELP = """Calibration as a service: confidences that one can act on.

A service is named by --url or FEDLAS_URL (http://127.0.0.1:8000 without either), its key by FEDLAS_API_KEY. Results go
to stdout as a table, and in a pipe as lines of cells between tabs; --json prints what the API says.

Exit codes: 0 done, 1 invalid input, 2 a wrong command line, 70 a defect of ours; with --require 0 as required, 3
unchanged, 4 undetermined, 5 calibrated, but not proven as required; of scores 0, 3 and 4 without it, too.
"""
#: Where a module is missing that is no other's, something is broken.
_OURS = ("fedlas", "service", "worker")
#: Name → the sentence in the help, and the extra that brings what it needs.
_COMMANDS = {
    "serve": ("Run API, worker and broker on this machine.", "standalone"),
    "api": ("Run the API alone, for workers elsewhere.", "service"),
    "migrate": ("Bring what a pre-release stored to this release.", "service"),
    "backup": ("Copy database and stored files into a folder.", "service"),
    "restore": ("Put a backup back, while no service runs.", "service"),
    "demo": ("Calibrate an overconfident classifier of digits.", "standalone"),
    "openapi": ("Write the OpenAPI document to a file.", "service"),
}
app = typer.Typer(
    rich_markup_mode=None,  # help without rich is there in half of the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(
    help=_HELP,
    epilog=examples(
        "fedlas calibrate model.onnx rows.npz --publish-as digits",
        "fedlas calibrate model.onnx rows.npz --local --require significant --out calibrated.onnx",
        "cat rows.json | fedlas predict digits -",
        "fedlas jobs ls --json",
    ),
    invoke_without_command=True,
)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version and end.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    show_help(context)


app.command("calibrate", cls=Command, epilog=calibrate.HELP_END)(calibrate.calibrate)
app.command("predict", cls=AnswerCommand, epilog=predict.HELP_END)(predict.predict)
app.command("label-plan", cls=Command, epilog=scores.PLAN_HELP_END)(scores.label_plan)
app.command(
    "report",
    cls=Command,
    epilog=examples(
        "fedlas report job_01k…",
        "fedlas report job_01k… --out report.html",
        "fedlas report job_01k… --require significant -q  # a later step of the pipeline",
        table=TABLE,
    ),
)(jobs.report)
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)
import_module("fedlas.cli.groups")  # further commands of groups


def _run(context: typer.Context) -> int:
    from importlib.metadata import entry_points

    name = context.info_name or ""
    commands = entry_points(group="fedlas.commands", name=name)
    needed = install(_COMMANDS[name][1])
    if not commands:
        raise CommandError(f"`fedlas {name}` is not installed: {needed}")
    try:
        return int(commands[name].load()(context.args))
    except ModuleNotFoundError as error:
        if (module := (error.name or "").partition(".")[0]) in _OURS:
            raise
        raise CommandError(f"`fedlas {name}` needs {module}, which is not installed: {needed}") from error


for _name, (_sentence, _) in _COMMANDS.items():
    app.command(
        _name,
        help=_sentence,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    )(_run)


@app.command(
    "doctor", cls=Command, epilog=examples("fedlas doctor", "fedlas doctor --url https://fedlas.example.org --json")
)
def examine(
    session: Session,
    *,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Time limit for the devices.", min=1)] = 10,
) -> int:
    """Examine the installation, with remedies.

    What is installed, which devices are really used, what the sandbox can do here, and what is reachable. The exit
    code is 1 where anything fails.
    """
    # The checks read the variables that name the service.
    names = {"url": "FEDLAS_URL", "key": "FEDLAS_API_KEY", "profile": "FEDLAS_PROFILE"}
    os.environ.update({names[part]: value for part, value in session.at.items() if value is not None})
    from fedlas.cli import doctor

    return doctor.run(as_json=session.output.json, quiet=session.output.quiet, seconds=timeout)


@app.command("version", cls=Command, epilog=examples("fedlas version", "fedlas version --json"))
def version(session: Session) -> None:
    """Print the version of this program."""
    if session.output.json:
        session.output.record({"version": __version__}, [])
    else:
        print(__version__)


def run(arguments: Sequence[str]) -> int:
    """Run a command; whatever it raises becomes a sentence and an exit code."""
    _prepare_streams()
    try:
        code: int = app(args=list(arguments), prog_name="fedlas", standalone_mode=False) or 0
        sys.stdout.flush()
        return code
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except typer.TyperException as error:
        return _usage(error)
    except BrokenPipeError:
        return closed_pipe()
    except Exception as error:
        return told(error, debug="--debug" in arguments)


def _prepare_streams() -> None:
    """Escape letters that the terminal lacks, and let closed streams take everything."""
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _usage(error: typer.TyperException) -> ExitCode:
    """Report a wrong command line, and where the right one is explained."""
    if message := error.format_message():
        print(f"fedlas: {message}", file=sys.stderr)
        path = getattr(getattr(error, "ctx", None), "command_path", "fedlas")
        print(f"'{path} --help' shows how it is used.", file=sys.stderr)
    return ExitCode.USAGE
