"""The command `fedlas`: its groups and commands, and what becomes of everything that they raise."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from fedlas.cli import (
    batches,
    calibrate,
    calibrators,
    datasets,
    jobs,
    models,
    names,
    predict,
    reports,
    service_commands,
)
from fedlas.cli.command import examples_text, show_help
from fedlas.cli.exits import ExitCode
from fedlas.cli.failures import closed_pipe, told

_HELP = """Calibration as a service: confidences that one can act on.

A service is named by --url or FEDLAS_URL (http://127.0.0.1:8000 without either), its key by FEDLAS_API_KEY. Results go
to stdout as a table, and in a pipe as lines of cells between tabs; --json prints what the API says.

Exit codes: 0 as required, 3 unchanged, 4 undetermined, 5 promoted but not shown, 1 an error of the user's, 2 of ours.
"""
_EXAMPLES = (
    "fedlas calibrate model.onnx rows.npz --publish-as digits --watch",
    "fedlas calibrate model.onnx rows.npz --local --require shown --out calibrated.onnx",
    "cat rows.json | fedlas predict digits -",
    "fedlas jobs ls --json",
)

app = typer.Typer(
    rich_markup_mode=None,  # help without rich is there in half of the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(help=_HELP, epilog=examples_text(_EXAMPLES), invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
) -> None:
    if version:
        service_commands.print_version()
        raise typer.Exit
    show_help(context)


for _module in (calibrate, predict, reports, jobs, batches, models, datasets, names, calibrators, service_commands):
    _module.register(app)


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
    """What the terminal has no letters for is written in escapes, and what is closed takes everything."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _usage(error: typer.TyperException) -> ExitCode:
    """A wrong command line: what is wrong with it, and where the right one is explained."""
    if message := error.format_message():
        print(f"fedlas: {message}", file=sys.stderr)
        context = getattr(error, "ctx", None)
        path = "fedlas" if context is None else context.command_path
        print(f"'{path} --help' shows how it is used.", file=sys.stderr)
    return ExitCode.USER_ERROR
