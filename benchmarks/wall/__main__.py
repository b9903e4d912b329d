"""The wall around serving against the one-process form: both in one run.

    python -m benchmarks.wall --out wall.json
    python -m benchmarks.wall --only memory

Both forms run side by side over the same models, one frozen while the other is measured; ratios are of medians, and
less than 1 is worse than one process. Needs `apt install wrk`. The figures take three minutes:

- predictions: per second at 16 connections, kept and new for each request;
- memory: proportional set sizes after all kinds of requests.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.serving import load
from benchmarks.wall import predictions
from benchmarks.wall.forms import Form, Json, both


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: float


_FULL = Plan(5, 4.0)
_SHORT = Plan(1, 1.0)


def main() -> None:
    args = _parser().parse_args()
    load.need_wrk()
    plan = _SHORT if args.short else _FULL
    if args.rounds is not None:
        plan = replace(plan, rounds=args.rounds)
    results: Json = {"machine": {"processor": platform.processor(), "cores": os.cpu_count()}}
    with both() as forms:
        for name in args.only or _MEASURE:
            _tell(results, name, partial(_MEASURE[name], forms, plan), args.out)


def _tell(results: Json, name: str, measure: Callable[[], Json], out: Path | None) -> None:
    """Print a figure as soon as it is there, and keep all of them."""
    before = round(os.getloadavg()[0], 2)
    results[name] = {**measure(), "load average before": before}
    print(json.dumps({name: results[name]}, indent=1), flush=True)
    if out is not None:
        out.write_text(json.dumps(results, indent=1) + "\n")


def _predictions(forms: list[Form], plan: Plan) -> Json:
    return predictions.rates(forms, rounds=plan.rounds, seconds=plan.seconds)


def _memory(forms: list[Form], _: Plan) -> Json:
    return predictions.memory(forms)


_MEASURE: dict[str, Callable[[list[Form], Plan], Json]] = {"predictions": _predictions, "memory": _memory}


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", nargs="+", choices=tuple(_MEASURE))
    made.add_argument("--rounds", type=int, help="of each figure, both forms in turn (default: 5)")
    made.add_argument("--short", action="store_true", help="everything works; the numbers say nothing")
    made.add_argument("--out", type=Path, help="also write the results here, as JSON")
    return made


if __name__ == "__main__":
    main()
