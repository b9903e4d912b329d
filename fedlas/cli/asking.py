"""A question on a terminal, which yes answers; Ctrl-C ends it whenever it is pressed.

`input()` forgets a Ctrl-C that comes after the prompt was written and before it reads: the signal is noted, and acted
upon after the next line only. So the wait for a line is cut into short ones, between which Python looks for signals.
"""

from __future__ import annotations

import select
import sys

_STEP_S = 0.1


def somebody_is_there() -> bool:
    """Whether a question would be read, and its answer typed, by a human."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def says_unseen() -> bool:
    """Whether somebody at the terminal says that the model was trained on none of the rows, which have no splits."""
    return somebody_is_there() and agreed("Is it certain that the model was trained on none of these rows?")


def agreed(question: str) -> bool:
    """Whether yes is the answer to a question; no is what everything else means.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed instead.
    """
    print(f"{question} [y/N]: ", end="", file=sys.stderr, flush=True)
    try:
        return _line().strip().lower() in ("y", "yes")
    except KeyboardInterrupt:
        print(file=sys.stderr)  # what comes next does not stand behind ^C
        raise


def _line() -> str:
    """The next line of the terminal, empty at its end (Ctrl-D)."""
    if sys.platform != "win32":  # which can wait for sockets only
        while not select.select([sys.stdin], [], [], _STEP_S)[0]:
            pass
    return sys.stdin.readline()
