"""How long it takes until a command or an import is there: medians of fresh processes, side by side.

    python -m benchmarks.start_up --repeats 15

Each line runs again and again in turn, so that a busy moment of the machine strikes all alike. `jobs ls` asks a real
`fedlas api`, and `python -c pass` is what the interpreter alone takes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.api_process import running_api

_FEDLAS = ("-m", "fedlas.cli")
_LINES: Mapping[str, Sequence[str]] = {
    "python -c pass": ("-c", "pass"),
    "import fedlas": ("-c", "import fedlas"),
    "import httpx, pydantic": ("-c", "import httpx, pydantic"),
    "from fedlas.client import Client": ("-c", "from fedlas.client import Client"),
    "import fedlas.metrics": ("-c", "import fedlas.metrics"),
    "fedlas.FedLASLoss": ("-c", "import fedlas; fedlas.FedLASLoss"),
    "import torch": ("-c", "import torch"),
    "fedlas --help": (*_FEDLAS, "--help"),
    "fedlas jobs ls": (*_FEDLAS, "jobs", "ls"),
    "fedlas doctor": (*_FEDLAS, "doctor"),
}


def measure(repeats: int, environment: Mapping[str, str]) -> dict[str, list[float]]:
    """Seconds of each run of each line."""
    seconds: dict[str, list[float]] = {name: [] for name in _LINES}
    for turn in range(repeats + 1):
        for name, arguments in _LINES.items():
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *arguments], env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert done.returncode == 0, f"{name}: {done.stderr}"
            if turn > 0:  # the first one compiles modules and fills the cache of files
                seconds[name].append(time.perf_counter() - began)
    return seconds


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    with running_api("sqlite") as api:
        seconds = measure(options.repeats, {"FEDLAS_URL": f"http://127.0.0.1:{api.port}"})
    print(f"| {options.repeats} processes each | median s | fastest s | slowest s |\n|---|---|---|---|")
    for name, runs in seconds.items():
        print(f"| `{name}` | {median(runs):.3f} | {min(runs):.3f} | {max(runs):.3f} |")


if __name__ == "__main__":
    main()
