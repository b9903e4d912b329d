"""The command line, `fedlas`: everything that the service does, from a terminal or a pipeline.

What a command needs is imported when it runs: the help and a short question are there at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fedlas.extras import MissingExtra, require


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code (`fedlas.cli.exits`)."""
    try:
        require("cli", "typer", "rich")
    except MissingExtra as missing:
        print(f"fedlas: {missing}", file=sys.stderr)
        return 1
    from fedlas.cli.app import run

    return run(sys.argv[1:] if arguments is None else arguments)
