"""`python -m tests.chaos`: whatever may be killed in a whole service is killed, and six things stay true."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from tests.chaos.course import run


def main() -> int:
    """Run, and return 0 if everything stayed true, 1 if not, 130 if it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=150, help="of kills; all of it takes twice as long")
    parser.add_argument("--calm", action="store_true", help="no kills: then no process may end by itself")
    parser.add_argument("--load", type=int, default=0, help="processes beside it that want a core")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell that starts it in the background ignores the first
        signal.signal(number, _interrupt)
    folder, start, kept = Path(tempfile.mkdtemp(prefix="fedlas-chaos-")), time.monotonic(), False

    def say(text: str) -> None:
        print(f"{time.monotonic() - start:6.1f} s  {text}", flush=True)

    try:
        kept = run(folder, seconds=options.seconds, calm=options.calm, load=options.load, say=say)
        return 0 if kept else 1
    except KeyboardInterrupt:
        say("interrupted; everything is stopped")
        return 130
    finally:
        if kept:
            shutil.rmtree(folder)
        else:
            print(f"what was logged and stored is kept in {folder}", flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
