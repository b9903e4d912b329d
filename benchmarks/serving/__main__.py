"""Our service against LitServe, MLServer and BentoML, with the same file, payload and load; see benchmarks/README.md.

    python -m benchmarks.serving
    python -m benchmarks.serving --short
    python -m benchmarks.serving --only single p99
    python -m benchmarks.serving --only sweep --levels 1 4 16 --servers fedlas mosec

Peers live in environments of their own under `.venv/peers`, made at the first run. One row per request unless said
otherwise, 16 connections, wrk with one thread; ONNX Runtime on one thread everywhere; every server once per round, the
others frozen meanwhile; medians of the rounds, ratios of medians. Ours runs with keys, metrics and request ids. All
answers must be 200, and a sample of each server's must agree with ONNX Runtime alone to 1e-5. Needs `apt install wrk`.
The p99 figure has a generator of its own (`load.paced`): Debian has no open-loop one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.data.common import results_file
from benchmarks.serving import alone, environments, figures, load, models, sweep, trials
from benchmarks.serving.figures import EVERY_SERVER
from benchmarks.serving.fleet import Json
from benchmarks.serving.payloads import Failed
from benchmarks.serving.summary import lines
from benchmarks.serving.trials import Plan

_SHORT = ("single", "p99", "binary", "floats", "overhead")
FIGURES = ("peers", *_SHORT)


def main() -> None:
    args = _parser().parse_args()
    load.need_wrk()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # servers are stopped on the way out
    plan = Plan(args.rounds or (1 if args.short else 5), args.seconds or (1.0 if args.short else 5.0))
    out = args.out or results_file("serving")
    # Figures of earlier runs stay in the file beside the new ones; a short run leaves the default one alone.
    results: Json = json.loads(out.read_text()) if out.exists() else {}
    used = args.servers if args.only == ["sweep"] else environments.PEERS
    results |= {"machine": _machine(), "versions": results.get("versions", {}) | _versions(used)}
    print(json.dumps({key: results[key] for key in ("machine", "versions")}, indent=1), flush=True)
    for name in args.only or (_SHORT if args.short else FIGURES):
        load_average = round(os.getloadavg()[0], 2)
        print(f"{name}: load average {load_average}", flush=True)
        plan = replace(plan, settings=results.get("peers", {}).get("fastest", {}))
        try:
            results[name] = {**_MEASURE[name](plan, args), "load_average_before": load_average}
        except Failed as error:
            sys.exit(f"{name}: {error}")
        if args.out or not args.short:
            out.write_text(json.dumps(results, indent=1) + "\n")
        print("\n".join(lines({name: results[name]})), flush=True)
    if args.short:
        print("A short run: everything works, and its numbers say nothing.")


def _sweep(plan: Plan, args: argparse.Namespace) -> Json:
    plan = replace(plan, seconds=args.seconds or (1.0 if args.short else sweep.SECONDS))
    return sweep.swept(plan, _MODELS[args.floats](), levels=args.levels, servers=args.servers)


_MODELS = {64: models.digits, 784: models.mnist}
_MEASURE: Mapping[str, Callable[[Plan, argparse.Namespace], Json]] = {
    "peers": lambda plan, _: trials.tried(plan),
    "single": lambda plan, _: figures.single_rows(plan, models.digits(), goal=3.0),
    "p99": lambda plan, _: figures.tail(plan, models.digits()),
    "binary": lambda plan, _: alone.binary_rows(plan, models.mnist()),
    "floats": lambda plan, _: figures.single_rows(plan, models.mnist(), goal=2.5),
    "overhead": lambda plan, _: alone.extras(plan),
    "sweep": _sweep,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(_MEASURE), help="these figures")
    parser.add_argument("--short", action="store_true", help="does everything work? settings are not tried")
    parser.add_argument("--rounds", type=int, help="default: 5")
    parser.add_argument("--seconds", type=float, help="of each measurement; default: 5, of the sweep 30")
    parser.add_argument("--levels", nargs="+", type=int, default=sweep.LEVELS, help="connections, of the sweep")
    parser.add_argument("--servers", nargs="+", choices=EVERY_SERVER, default=sweep.SERVERS, help="of the sweep")
    parser.add_argument("--floats", type=int, choices=_MODELS, default=64, help="in a row, of the sweep")
    parser.add_argument("--out", type=Path, help="default: the cache folder, but for a short run")
    return parser


def _machine() -> Json:
    lines_ = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(": ")[2] for line in lines_ if line.startswith("model name")), platform.machine())
    system, python = platform.platform(), platform.python_version()
    return {"processor": name, "cores": os.cpu_count(), "python": python, "system": system}


def _versions(servers: Collection[str]) -> Json:
    """Versions of ours and of the peers among these; peers that are not there are installed on this occasion."""
    ours = environments.versions(Path(sys.executable))
    peers = [peer for peer in environments.PEERS if peer in servers]
    return {"ours": ours} | {peer: environments.versions(environments.python(peer)) for peer in peers}


if __name__ == "__main__":
    main()
