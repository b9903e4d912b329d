"""Code blocks of a Markdown page, run in order: in one folder, Python in one namespace, bash with its variables.

A block is run unless the line before it says why not: `<!-- not run: REASON -->`. A `text` block right after one is
what it prints, where `…` stands for anything and decimals are compared roughly. What a page needs and does not show is
Python in `<!-- prepare: … -->`, where `given("digits.npz")` puts an upload of the tests into the folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers import ROOT
from tests.helpers.uploads import Uploads

#: Languages whose blocks run, or are read (json).
RUN = {"python", "bash", "sh", "console", "json"}
_BASH_S = 250
#: Blocks of these are output, diagrams or files of others.
SHOWN = {"", "text", "yaml", "promql", "toml", "bibtex"}

#: How far a decimal may be from the one that a page shows; what stands in front of `…` is compared as text.
_DECIMALS = 0.1
_TOLERANT = re.compile(r"(…|(?<![\d.])\d+\.\d+(?![\d…]|\.\d))")

_PART = re.compile(
    r"(?:^[ ]*<!-- not run: (?P<reason>[^\n]+?) -->\s*\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^[ ]*```[ ]*$"
    r"|<!-- prepare:\n(?P<prepare>.*?)-->",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A code block, where it stands, what it prints where that is shown, and why it is not run."""

    language: str
    text: str
    place: str
    reason: str | None = None
    output: str | None = None


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page that run, or say why they do not, in order."""
    text = page.read_text()
    found: list[Block] = []
    end = 0
    for part in _PART.finditer(text):
        place = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, part.start()) + 1}"
        if part["prepare"] is not None:
            found.append(Block("python", part["prepare"], place))
            continue
        code = re.sub(f"^{part['indent']}", "", part["text"], flags=re.MULTILINE)
        language = part["language"]
        if language == "text" and found and not text[end : part.start()].strip() and found[-1].reason is None:
            last = found.pop()
            found.append(Block(last.language, last.text, last.place, output=code))
        elif language in RUN or part["reason"]:
            found.append(Block(language, code, place, part["reason"]))
        elif language not in SHOWN:
            raise ValueError(f"{place}: no reader for a block of {language}")
        end = part.end()
    return found


def is_as_shown(printed: str, wanted: str) -> bool:
    """True where an output is the one on a page; decimals may differ, as they do between processors.

    >>> is_as_shown("NLL 0.21 of 500 rows", "NLL 0.20 of 500 rows"), is_as_shown("NLL 0.21", "NLL 0.1…")
    (True, False)
    >>> is_as_shown("NLL 0.31", "NLL 0.20"), is_as_shown("501 rows", "500 rows"), is_as_shown("a, b, c", "a, …")
    (False, False, True)
    """
    parts = _TOLERANT.split(wanted)
    found = re.fullmatch("".join(_pattern(part) for part in parts), printed, re.DOTALL)
    shown = [float(part) for part in parts if _TOLERANT.fullmatch(part) and part != "…"]
    if found is None:
        return False
    values = [float(value) for value in found.groups()]
    return all(math.isclose(*pair, rel_tol=_DECIMALS) for pair in zip(values, shown, strict=True))


def _pattern(part: str) -> str:
    if part == "…":
        return ".*?"
    return r"(\d+\.\d+)" if _TOLERANT.fullmatch(part) else re.escape(part)


@dataclass
class Walk:
    """A reader who follows pages: their folder, the variables of their Python and of their shell."""

    folder: Path
    address: str
    uploads: Uploads
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})

    def __post_init__(self) -> None:
        self.names["given"] = self._give
        (self.folder / ".venv").symlink_to(sys.prefix)
        (self.folder / ".state").touch()
        (self.folder / ".folder").write_text(str(self.folder))

    def run(self, block: Block) -> None:
        """Run one block and compare what it prints."""
        text = block.text.replace("127.0.0.1:8000", self.address)
        if block.language == "json":
            json.loads(re.sub(r"[\[{]…[\]}]", "[]", text).replace("…", "..."))
            return
        if block.language == "console":
            for command, output in _commands(text):
                self._compare(self._bash(command, block), output or None, block)
            return
        printed = self._python(text, block) if block.language == "python" else self._bash(text, block)
        self._compare(printed, block.output, block)

    def _give(self, *names: str) -> None:
        for name in names:
            Path(name).write_bytes(self.uploads[name])

    def _compare(self, printed: str, wanted: str | None, block: Block) -> None:
        if wanted is None:
            return
        wanted = wanted.replace("127.0.0.1:8000", self.address)
        lines = [line.rstrip() for line in printed.strip().splitlines()]
        if not is_as_shown("\n".join(lines), wanted.strip()):
            raise AssertionError(f"{block.place} prints\n{printed}\nand the page says\n{wanted}")

    def _python(self, text: str, block: Block) -> str:
        printed = io.StringIO()
        before = os.getcwd()
        os.chdir(self._where())
        try:
            with contextlib.redirect_stdout(printed), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(compile(text, block.place, "exec"), self.names)
        except (Exception, SystemExit) as error:
            raise AssertionError(
                f"{block.place} ended with {error!r}, after it printed\n{printed.getvalue()}"
            ) from error
        finally:
            os.chdir(before)
        return printed.getvalue()

    def _bash(self, text: str, block: Block) -> str:
        script = f"source {self.folder}/.state 2>/dev/null; cd {self._where()}\nset -eo pipefail\n"
        done = subprocess.run(
            ["bash", "-c", script + _saving(self.folder) + text],
            cwd=self.folder, env=environment(self.address), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_BASH_S,
        )  # fmt: skip
        if done.returncode != 0:
            raise AssertionError(f"{block.place} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def _where(self) -> str:
        return (self.folder / ".folder").read_text().strip()


def environment(address: str) -> Mapping[str, str]:
    """The environment of a reader's commands: this tree's programs, and the service's address."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"
    return {**own, "PATH": path, "PYTHONPATH": str(ROOT), "FEDLAS_URL": f"http://{address}", "NO_COLOR": "1"}


def _saving(folder: Path) -> str:
    """Bash that leaves its variables, functions and folder to the next block."""
    state = f"{{ declare -p; declare -f; }} > {folder}/.state 2>/dev/null; pwd > {folder}/.folder"
    return f"trap 'code=$?; {state}; exit $code' EXIT\n"


def _commands(text: str) -> list[tuple[str, str]]:
    """Commands of a console and what is shown below each."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]
