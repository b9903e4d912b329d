"""A process behind the wall: it gives up all that it does not need, and then becomes a serving process or the acceptor.

`python -m service.processes.confined serving|acceptor …`, started by `fedlas serve`, as a process or as a
fork of one that has loaded the libraries.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

from service.confinement.confinement import CONTROLS, confine, lacking
from service.processes import policies

#: The exit code of a process that lacks a protection which this machine has, or must have.
UNPROTECTED = 4


def main() -> int:
    """Confine this process and run it; before that nothing of strangers was read."""
    parser = argparse.ArgumentParser(prog="python -m service.processes.confined", allow_abbrev=False)
    parser.add_argument("process", choices=("serving", "acceptor"))
    parser.add_argument("--folder", type=Path, help="of the served copies")
    parser.add_argument("--expect", action="append", default=[], choices=CONTROLS, help="do not begin without this")
    parser.add_argument("--trial", action="store_true", help="of serving: say what this machine permits, and end")
    options, arguments = parser.parse_known_args()
    if options.process == "serving":
        # With a single thread, as a fork has: libraries start theirs later.
        report = confine(policies.serving(options.folder))
        arguments += ["--folder", str(options.folder)]
        if options.trial:
            print(json.dumps(report))
            return 0
    module = import_module(f"service.processes.{options.process}")
    if options.process == "acceptor":
        # Once it is loaded it needs no file any more.
        report = confine(policies.acceptor())
    if missing := lacking(report, options.expect):
        print(f"CRITICAL a protection that this machine has does not hold here: {'; '.join(missing)}", flush=True)
        return UNPROTECTED
    sys.argv = [f"service.processes.{options.process}", *arguments]
    return int(module.main())


if __name__ == "__main__":
    sys.exit(main())
