"""The sweep: each server at more and more connections, with the machine to itself; rates, latencies, errors, CPU time.

The settings of a peer are its two fastest and the one that never lets a request wait for others: at few connections,
batches cost time and bring nothing. Nothing is pinned, and the load comes from the same machine, for everybody.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from functools import partial

from benchmarks.serving import load
from benchmarks.serving.figures import everybody
from benchmarks.serving.fleet import Contender, Json, in_turn, round_to
from benchmarks.serving.models import ServedModel
from benchmarks.serving.payloads import Failed
from benchmarks.serving.peers import CALM
from benchmarks.serving.trials import Plan

LEVELS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SERVERS = ("fedlas", "mosec", "mlserver", "litserve")
SECONDS = 30.0
_WARM_UP_S = 1.0


def swept(plan: Plan, model: ServedModel, *, levels: Iterable[int], servers: Collection[str]) -> Json:
    """One row of JSON a request; at each level everybody once, the others frozen. A level is printed when it is there.

    A server that can no longer be reached has zeros, and one error for each level.
    """
    found: Json = {}
    with everybody(plan, model, CALM, only=servers) as contenders:
        for level in levels:
            before = round(os.getloadavg()[0], 2)
            measure = partial(_measured, seconds=plan.seconds, connections=level)
            runs = in_turn(contenders, measure, rounds=1, warm_up_s=0)  # it would raise at an error
            found[str(level)] = {"load_average_before": before, "servers": {name: run for name, (run,) in runs.items()}}
            print(json.dumps({level: found[str(level)]}), flush=True)
    return {"model": model.name, "seconds": plan.seconds, "levels": found}


def _measured(contender: Contender, *, seconds: float, connections: int) -> Json:
    """Latencies are those of all answers; `per_second` and `cpu_s_per_request` (0 without any) count those with 200."""
    running, request = contender.running, contender.request
    try:
        load.counted(running.port, request, seconds=_WARM_UP_S, connections=connections)
        before = running.cpu_s
        run = load.counted(running.port, request, seconds=seconds, connections=connections)
    except Failed as error:
        print(f"{contender.name}: {error}", flush=True)
        return {"per_second": 0.0, "p50_ms": 0.0, "p99_ms": 0.0, "errors": 1, "cpu_s_per_request": 0.0}
    cpu_s, answered = running.cpu_s - before, run["requests"] - run["not_200"]
    numbers = {key: round_to(run[key]) for key in ("per_second", "p50_ms", "p99_ms")}
    errors = run["not_200"] + run["broken"]
    return {**numbers, "errors": errors, "cpu_s_per_request": round_to(cpu_s / answered) if answered else 0.0}
