"""How long it takes until a command or an import is there: medians of fresh processes, side by side.

    python -m benchmarks.start_up --repeats 15
    python -m benchmarks.start_up --python /tmp/empty/bin/python     # where the wheel was installed with an extra

Each line runs again and again in turn, so that a busy moment of the machine strikes all alike. `jobs ls` asks a real
`fedlas serve`, and `python -c pass` is what the interpreter alone takes. What is not installed there has a `-`.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.serving import ours

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


@dataclass(frozen=True)
class Run:
    """The cost of one process: seconds that passed, and seconds that it computed."""

    seconds: float
    computed: float


def measure(python: str, repeats: int, environment: Mapping[str, str]) -> dict[str, list[Run]]:
    """The runs of each line; none of one that fails."""
    runs: dict[str, list[Run]] = {name: [] for name in _LINES}
    for turn in range(repeats + 1):
        for name, arguments in _LINES.items():
            if turn > 1 and not runs[name]:
                continue
            run = once([python, *arguments], environment)
            if turn > 0 and run is not None:  # the first one compiles modules and fills the cache of files
                runs[name].append(run)
    return runs


def once(command: Sequence[str], environment: Mapping[str, str]) -> Run | None:
    """Run one process; None where it fails."""
    began, computed = time.perf_counter(), _computed()
    null = subprocess.DEVNULL
    if subprocess.run(command, env=environment, cwd="/", stdin=null, stdout=null, stderr=null).returncode != 0:
        return None
    return Run(time.perf_counter() - began, _computed() - computed)


def _computed() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of another environment")
    options = parser.parse_args()
    same = options.python == sys.executable
    inherited = {name: value for name, value in os.environ.items() if same or name != "PYTHONPATH"}
    with ours.serving() as service:
        address = {"FEDLAS_URL": f"http://127.0.0.1:{service.running.port}", "FEDLAS_API_KEY": ours.KEY}
        found = measure(options.python, options.repeats, {**inherited, **address})
    print(f"| {options.repeats} processes each | median s | fastest s | median CPU s |\n|---|---|---|---|")
    for name, runs in found.items():
        if not runs:
            print(f"| `{name}` | - | - | - |")
            continue
        seconds = [run.seconds for run in runs]
        computed = median(run.computed for run in runs)
        print(f"| `{name}` | {median(seconds):.3f} | {min(seconds):.3f} | {computed:.3f} |")


if __name__ == "__main__":
    main()
