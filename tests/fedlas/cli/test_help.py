"""Help, versions and completion: there at once, for every command, with examples that are commands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import typer.main

import fedlas
from fedlas.cli import calibrate, main, options
from fedlas.cli.app import app
from fedlas.contract import profiles, requests
from fedlas.extras import beside
from tests.helpers.command_line import COMMAND, environment
from tests.helpers.command_line import fedlas as run

SERVICE = ("serve", "api", "migrate", "backup", "restore", "demo", "openapi")


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all commands and groups."""
    for name, found in (group or typer.main.get_command(app)).commands.items():
        yield (*path, name)
        if hasattr(found, "commands"):
            yield from commands(found, (*path, name))


ALL = list(commands())
GROUPS = {path[:1] for path in ALL if len(path) == 2}


@pytest.mark.parametrize("path", [path for path in ALL if path[0] not in SERVICE and path not in GROUPS], ids=" ".join)
def test_every_help_has_examples_that_are_commands(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Each example names this very command, with options that its help has, and says nothing that is too wide."""
    assert main([*path, "--help"]) == 0
    text = capsys.readouterr().out
    examples = re.findall(r"^    \$ (.*)$", text, re.MULTILINE)
    assert examples
    assert max(map(len, text.splitlines())) <= 120
    for example in examples:
        words = shlex.split(example.replace("…", ""), comments=True)
        begin = words.index("fedlas") + 1
        assert tuple(words[begin : begin + len(path)]) == path
        for option in (word for word in words if re.match(r"--?[a-z]", word)):
            assert re.search(rf"(^|[\s,]){option}\b", text), (example, option)


@pytest.mark.parametrize("arguments", [[], ["jobs"], ["--help"], ["-h"], ["models", "-h"]])
def test_a_group_shows_its_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A group alone asks for nothing, so it is no error."""
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert (told.err, told.out.startswith("Usage: fedlas")) == ("", True)


def test_commands_of_the_service_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Commands of the service have a sentence installed or not, and their own help where they are."""
    main(["--help"])
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +[A-Z]", text, re.MULTILINE) for name in SERVICE)
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert ended.value.code == 0
    assert "--data-dir" in capsys.readouterr().out


def test_what_is_not_installed_names_the_extra() -> None:
    """Without the service's libraries `serve` says what to install, and without rich so does everything."""
    code = "import sys; sys.modules[sys.argv[1]] = None; from fedlas.cli import main; sys.exit(main(sys.argv[2:]))"
    fastapi = ("fastapi", ["openapi", "/nowhere/x.json"], "service")
    for module, arguments, extra in (fastapi, ("pydantic_settings", ["serve"], "standalone")):
        command = [sys.executable, "-c", code, module, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert (done.returncode, done.stdout) == (1, "")
        said = f"`fedlas {arguments[0]}` needs {module}, which is not installed: pip install 'fedlas[{beside(extra)}]'"
        assert done.stderr == f"fedlas: {said}\n"


def test_the_version() -> None:
    """`--version`, `version` and its JSON say the same."""
    for arguments, expected in (
        (["--version"], fedlas.__version__),
        (["version"], fedlas.__version__),
        (["version", "--json"], f'{{"version": "{fedlas.__version__}"}}'),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{expected}\n", "")


def test_streams_that_take_nothing_or_little() -> None:
    """A closed stdout is no error, and neither are letters that a terminal does not have."""
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "version", "--json"], env=environment())
    assert closed.returncode == 0
    done = run("predict", "digits", "größe.json", variables={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (1, "fedlas: gr\\xf6\\xdfe.json: there is no such file\n")


def test_help_loads_no_client_and_no_rich() -> None:
    """A command imports its libraries when it runs."""
    code = "import sys, fedlas.cli as c; c.main(['calibrate', '--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert not {"rich", "httpx", "pydantic", "numpy", "torch", "fedlas.client"} & set(done.stderr.split())


def test_completion() -> None:
    """The script of a shell asks the command, which knows its commands and options."""
    script = run(variables={"_FEDLAS_COMPLETE": "source_bash"})
    assert (script.returncode, "_FEDLAS_COMPLETE=" in script.stdout) == (0, True)
    told = run(variables={"_FEDLAS_COMPLETE": "complete_bash", "COMP_WORDS": "fedlas jobs w", "COMP_CWORD": "2"})
    assert (told.returncode, "watch" in told.stdout, "cancel" in told.stdout) == (0, True, False)


def test_the_module_runs_as_the_command() -> None:
    """`python -m fedlas.cli` and a broken command line: exit code 2 and a hint."""
    done = subprocess.run([*COMMAND, "jobs", "lst"], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "'fedlas jobs --help' shows how it is used."


def test_choices_are_those_of_the_contract() -> None:
    """Help loads no contract, so that the values of an option stand in the command line once more."""
    for ours, theirs in (
        (calibrate.Method, requests.Method),
        (calibrate.PublishWhen, requests.PublishWhen),
        (get_args(options.SeenByModel)[0], profiles.SeenByModel),
    ):
        assert set(get_args(theirs)) <= {*get_args(ours), *get_args(get_args(ours)[0])}
