"""The figures against the peers: who answers how many single rows of JSON a second, and how late at a given rate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np

from benchmarks.serving import load, ours, peers
from benchmarks.serving.fleet import Contender, Json, in_turn, round_to, summed_up
from benchmarks.serving.models import ServedModel
from benchmarks.serving.peers import CALM, CANDIDATES, Setting
from benchmarks.serving.trials import Plan

PREDICT = "fedlas /v1 predict"
INFER = "fedlas /v2 infer"
_OURS = (PREDICT, INFER)
EVERY_SERVER = ("fedlas", *CANDIDATES)


def single_rows(plan: Plan, model: ServedModel, *, goal: float) -> Json:
    """Requests per second, one row of JSON each, 16 connections: ours against the best of the peers."""
    with everybody(plan, model) as contenders:
        found = in_turn(contenders, lambda one: one.full(plan.seconds), rounds=plan.rounds)
    table = summed_up(found, "per_second", "p50_ms", "p99_ms")
    rates = {name: row["per_second"]["median"] for name, row in table.items()}
    best = max(_peers_among(rates), key=rates.__getitem__)
    ratios = {name: round_to(rates[name] / rates[best]) for name in _OURS}
    return {"servers": table, "best_peer": best, "ratio": ratios, "goal": goal}


def tail(plan: Plan, model: ServedModel) -> Json:
    """p99 at half of each peer's best throughput: that peer and ours; at the best peer's, everybody who keeps up.

    Peers are measured without gathering batches too, whatever is fastest: at half the load that may be quicker.
    Requests come at fixed moments, evenly, and at the best peer's rate also as independent clients send them.
    """
    with everybody(plan, model, CALM) as contenders:
        found = in_turn(contenders, lambda one: one.full(plan.seconds), rounds=max(1, plan.rounds // 2))
        most = {name: float(np.median([run["per_second"] for run in runs])) for name, runs in found.items()}
        best = max(_peers_among(most), key=most.__getitem__)
        rates: Json = {}
        for peer in CANDIDATES:
            rate = max(most[name] for name in _peers_among(most) if _server(name) == peer) / 2
            # A server that cannot keep up has no percentile but the length of the experiment.
            able = [one for one in contenders if most[one.name] > 1.1 * rate]
            if peer != _server(best):
                able = [one for one in able if _server(one.name) in (peer, "fedlas")]
            for even in (True, False) if peer == _server(best) else (True,):
                moments = load.arrivals(rate, plan.seconds, even=even)
                found = in_turn(able, partial(Contender.paced, moments=moments), rounds=plan.rounds)
                table = summed_up(found, "p50_ms", "p99_ms", "slowest_ms", "late_p99_ms")
                key = f"half of {peer}, {'even' if even else 'random'}"
                rates[key] = {"per_second": round_to(rate), "servers": table, "ratio": _p99_ratios(table)}
    return {"best_peer": best, "most_per_second": {name: round_to(rate) for name, rate in most.items()}, "rates": rates}


def _p99_ratios(table: Json) -> Json:
    """Ours over the lowest of the peers."""
    p99 = {name: row["p99_ms"]["median"] for name, row in table.items()}
    lowest = min(p99[name] for name in _peers_among(p99))
    return {name: round_to(p99[name] / lowest) for name in _OURS if name in p99}


def _peers_among(table: Mapping[str, Any]) -> list[str]:
    return [name for name in table if _server(name) in CANDIDATES]


def _server(name: str) -> str:
    """`litserve` of `litserve (no batches)`; `fedlas` of both ways to ours."""
    return name.partition(" ")[0]


@contextmanager
def everybody(
    plan: Plan, model: ServedModel, more: Sequence[Setting] = (), *, only: Collection[str] = EVERY_SERVER
) -> Iterator[list[Contender]]:
    """Peers and ours, each with a single row of JSON, their answers checked."""
    row = model.rows[:1]
    expected = model.probabilities(row)
    best = [setting for peer in CANDIDATES for setting in plan.best(model, peer)]
    settings = dict.fromkeys([*best, *more])
    found = []
    with ExitStack() as stack:
        for setting in (setting for setting in settings if setting.server in only):
            peer = stack.enter_context(peers.serving(setting, model))
            found.append(Contender(str(setting), peer.running, peer.request(row)).checked(expected))
            peer.running.freeze()
        if "fedlas" in only:
            service = stack.enter_context(ours.serving())
            (model_id,) = service.upload([model.content])
            ways: Mapping[str, Callable[..., Any]] = {PREDICT: ours.predict, INFER: ours.infer}
            for name, way in ways.items():
                found.append(Contender(name, service.running, way(model_id, row)).checked(expected))
        yield found
