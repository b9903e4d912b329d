"""The command line, `fedlas`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    found = entry_points(group="fedlas.commands")
    if name not in found.names:
        print(f"usage: fedlas {{{','.join(sorted(found.names))}}} …", file=sys.stderr)
        return 0 if name in ("-h", "--help") else 1
    code: int = found[name].load()(rest)
    return code
