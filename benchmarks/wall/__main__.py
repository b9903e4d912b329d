"""The wall around serving against the one-process form: every figure of both in one run, and the two designs of it.

    python -m benchmarks.wall --out wall.json
    python -m benchmarks.wall --only memory
    python -m benchmarks.wall --only events --rounds 9

Both forms run side by side over the same models, one frozen while the other is measured; ratios are of medians, and
less than 1 is worse than one process. Needs `apt install wrk`. The figures take ten minutes together:

- predictions: per second at 16 connections, kept and new for each request;
- memory: proportional set sizes after all kinds of requests;
- pages, uploads, events: what passes control alone; also through a relay, as a shared front would have it;
- kills: of a serving process, with another beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.api_process import allow_many_files
from benchmarks.server_load import cpu_seconds
from benchmarks.serving import load
from benchmarks.wall import kills, other_ways, predictions
from benchmarks.wall.forms import ONE_PROCESS, Form, Json, both, compared, in_turn

_RELAYED = "one process behind a relay"


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    longer_rounds: int
    seconds: float
    mebibytes: int
    clients: int


_FULL, _SHORT = Plan(5, 3, 4.0, 2048, 1000), Plan(1, 1, 1.0, 64, 100)


def main() -> None:
    args = _parser().parse_args()
    load.need_wrk()
    allow_many_files()
    plan = _SHORT if args.short else _FULL
    if args.rounds is not None:
        plan = replace(plan, rounds=args.rounds, longer_rounds=args.rounds)
    results: Json = {"machine": {"processor": platform.processor(), "cores": os.cpu_count()}}
    names = args.only or [*_MEASURE, "kills"]
    if side_by_side := [name for name in names if name in _MEASURE]:
        with both() as forms:
            for name in side_by_side:
                _tell(results, name, partial(_MEASURE[name], forms, plan), args.out)
    if "kills" in names:
        _tell(results, "kills", kills.measured, args.out)


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


def _pages(forms: list[Form], plan: Plan) -> Json:
    def measure(form: Form, port: int) -> Json:
        return other_ways.pages(port, seconds=plan.seconds)

    return _three_ways(forms, measure, {"per_second": "more"}, rounds=plan.longer_rounds)


def _uploads(forms: list[Form], plan: Plan) -> Json:
    def measure(form: Form, port: int) -> Json:
        return other_ways.upload(form, port, mebibytes=plan.mebibytes)

    return _three_ways(forms, measure, {"mb_per_s": "more"}, rounds=plan.longer_rounds)


def _events(forms: list[Form], plan: Plan) -> Json:
    def measure(form: Form, port: int) -> Json:
        return other_ways.events(form, port, clients=plan.clients)

    return _three_ways(forms, measure, {"connected_s": "less", "last_s": "less"}, rounds=plan.longer_rounds)


def _three_ways(
    forms: list[Form],
    measure: Callable[[Form, int], Json],
    keys: Mapping[str, Literal["more", "less"]],
    *,
    rounds: int,
) -> Json:
    """Both forms in turn, and the one-process form once more through the relay, with the relay's CPU seconds."""
    relayed: list[Json] = []

    def each(form: Form) -> Json:
        if form.name == ONE_PROCESS:
            with other_ways.relay(form.port) as relay:
                found = measure(form, relay.port)
                relayed.append({**found, "relay_cpu_s": cpu_seconds(relay.pid)})
        return measure(form, form.port)

    found = in_turn(forms, each, rounds=rounds)
    results = {key: compared(found, key, more_is_better=better == "more") for key, better in keys.items()}
    return {**results, _RELAYED: relayed}


_MEASURE: dict[str, Callable[[list[Form], Plan], Json]] = {
    "predictions": _predictions,
    "memory": _memory,
    "pages": _pages,
    "uploads": _uploads,
    "events": _events,
}


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", nargs="+", choices=[*_MEASURE, "kills"])
    made.add_argument("--rounds", type=int, help="of each figure, both forms in turn (default: 5, or 3)")
    made.add_argument("--short", action="store_true", help="everything works; the numbers say nothing")
    made.add_argument("--out", type=Path, help="also write the results here, as JSON")
    return made


if __name__ == "__main__":
    main()
