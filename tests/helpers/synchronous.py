"""The synchronous client, made of the asynchronous one: `python -m tests.helpers.synchronous` writes it.

Both are read and typed like any other code; only one of them is written by hand, and a test proves them in step.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "fedlas" / "client"
ASYNC, SYNC = CLIENT / "_async", CLIENT / "_sync"

#: In this order; words of the one client, and of the other.
_WORDS = (
    (r"The client for code that awaits; `fedlas/client/_sync` is made of it\.", "The client for code that waits."),
    (r"async (def|with|for)\b", r"\1"),
    (r"await ", ""),
    (r"Awaitable\[(\w+)\]", r"\1"),
    (r"AbstractAsyncContextManager", "AbstractContextManager"),
    (r"asynccontextmanager", "contextmanager"),
    (r"__a(enter|exit|iter|next)__", r"__\1__"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\basync_", ""),
    (r"\baclose\b", "close"),
    (r"\baread\b", "read"),
    (r"\baiter_", "iter_"),
    (r"\b_async\b", "_sync"),
    (r"Iterable, Awaitable, |Awaitable, ", ""),
)
_HEAD = "# Made of `fedlas/client/_async` by `python -m tests.helpers.synchronous`: change it there.\n"


def synchronous(source: str, name: str) -> str:
    """The synchronous module of an asynchronous one."""
    for pattern, word in _WORDS:
        source = re.sub(pattern, word, source)
    for command in (["check", "--fix", "--quiet", "--select", "I,RET504"], ["format", "--quiet"]):
        source = _ruff(command, _HEAD + source if command[0] == "check" else source, name)
    return source


def made() -> dict[Path, str]:
    """All synchronous modules, by their paths."""
    return {SYNC / path.name: synchronous(path.read_text(), path.name) for path in sorted(ASYNC.glob("*.py"))}


def _ruff(command: list[str], source: str, name: str) -> str:
    ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(SYNC / name), "-"]
    return subprocess.run(ruff, input=source, capture_output=True, text=True, check=True, cwd=CLIENT.parents[1]).stdout


def write() -> None:
    """Write all of them, and remove what has no original any more."""
    SYNC.mkdir(exist_ok=True)
    for path in {*SYNC.glob("*.py")} - {*made()}:
        path.unlink()
    for path, content in made().items():
        path.write_text(content)


if __name__ == "__main__":
    write()
    write()  # imports are sorted by what is there
