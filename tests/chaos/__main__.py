"""`python -m tests.chaos`: a whole service, everything that can happen to it, and one table of what became of it."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from tests.chaos import busy
from tests.chaos.course import run
from tests.chaos.storm import Plan


class Log:
    """Says what happens, with the time since the start, here and in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("w")
        self._start = time.monotonic()

    def __call__(self, text: str) -> None:
        for line in text.split("\n"):
            told = f"{time.monotonic() - self._start:7.1f} s  {line}"
            print(told, flush=True)
            print(told, file=self._file, flush=True)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def main() -> int:
    """Run, print the table, and return 0 if every promise was kept, 1 if not, 130 if it was interrupted."""
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell that starts it in the background ignores the first
        signal.signal(number, _as_interrupt)
    folder = Path(tempfile.mkdtemp(prefix="fedlas-chaos-"))
    log = Log(folder / "log.txt")
    kept = False
    try:
        kept = options.busy or run(folder, _plan(options), log)
        if options.busy or options.short:
            kept &= busy.run(folder, seconds=options.seconds, load=options.load, say=log)
        return 0 if kept else 1
    except KeyboardInterrupt:
        log("interrupted; everything is stopped")
        return 130
    finally:
        log.close()
        if kept:
            shutil.rmtree(folder)
        else:
            print(f"what was logged, stored and recorded is kept in {folder}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="what happens, and when, follows from it")
    parser.add_argument("--jobs", type=int, default=16, help="in flight at the start")
    parser.add_argument("--faults", type=int, default=300, help="at least")
    parser.add_argument("--minutes", type=float, default=40, help="the faults end by then at the latest")
    parser.add_argument("--busy", action="store_true", help="no faults: customers on a machine with too much to do")
    parser.add_argument("--seconds", type=float, default=600, help="of --busy")
    parser.add_argument(
        "--load", type=int, default=6 * (os.cpu_count() or 1), help="of --busy: processes that want a core"
    )
    parser.add_argument("--short", action="store_true", help="4 jobs, 40 faults, two minutes of them, 20 s of --busy")
    options = parser.parse_args()
    if options.short:
        options.jobs, options.faults, options.minutes, options.seconds = 4, 40, 2, 20
    return options


def _plan(options: argparse.Namespace) -> Plan:
    return Plan(options.seed, options.jobs, options.faults, storm_seconds=60 * options.minutes)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
