"""The figures about many models and many requests: one hot among fifty, and memory over a million; it starts ours."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.data.common import Array
from benchmarks.serving import load, models, ours
from benchmarks.serving.fleet import Contender, Json, in_turn, round_to, spread
from benchmarks.serving.models import ServedModel
from benchmarks.serving.payloads import Request
from benchmarks.serving.trials import Plan

_OTHERS, _OTHERS_PER_SECOND = 49, 5.0
#: Of 49 files of 1.2 MB, a quarter may be open.
_SMALL_CACHE_MB = 16
_CACHE = "FEDLAS_SESSION_CACHE_BYTES"
_SAMPLE_EVERY = 50_000


def one_hot(plan: Plan, model: ServedModel, *, others: int = _OTHERS) -> Json:
    """The hot model's requests/s alone, against beside 49 more that get 5 requests/s together; and the API's memory.

    Once with room for all of them, as by default, and once, the service started again, with room for a quarter.
    """
    row = model.rows[:1]
    found: Json = {}
    with tempfile.TemporaryDirectory(prefix="fedlas-fifty-") as name, ours.serving() as alone:
        (lonely,) = alone.upload([model.content])
        with ours.serving(Path(name)) as many:
            ids = many.upload([model.content, *models.others(others)])
            calls = [ours.predict(model_id, row) for model_id in ids]
        hermit = Contender("alone", alone.running, ours.predict(lonely, row)).checked(model.probabilities(row))
        limits = {"room for all": {}, f"room for {_SMALL_CACHE_MB} MB": {_CACHE: str(_SMALL_CACHE_MB * 2**20)}}
        for room, limit in limits.items():
            with ours.serving(Path(name), **limit) as many:
                memory = _memory(many, calls)
                hot = Contender("among many", many.running, calls[0]).checked(model.probabilities(row))
                runs = in_turn([hermit, hot], lambda one: _with_others(one, calls[1:], plan), rounds=plan.rounds)
            rates = {who: spread(its, "per_second") for who, its in runs.items()}
            ratio = round_to(rates[hot.name]["median"] / rates[hermit.name]["median"])
            found[room] = {"per_second": rates, "ratio": ratio, "memory_mb": memory}
    return {"models": len(ids), "file_mb": round_to(len(models.others(1)[0]) / 2**20), "rooms": found, "goal": 0.95}


def _with_others(contender: Contender, others: Sequence[Request], plan: Plan) -> Json:
    """Full load on the contender; where it is among many, those are called meanwhile."""
    if contender.name == "alone":
        return contender.full(plan.seconds)
    with _called(contender.running.port, others):
        return contender.full(plan.seconds)


@contextmanager
def _called(port: int, requests: Sequence[Request]) -> Iterator[None]:
    """Send these in turn, five a second, until the block ends."""
    done = threading.Event()
    failed: list[BaseException] = []

    def call() -> None:
        try:
            for request in itertools.cycle(requests):
                if done.wait(1 / _OTHERS_PER_SECOND):
                    return
                load.once(port, request)
        except BaseException as error:  # told by the main thread
            failed.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield
    finally:
        done.set()
        caller.join()
    if failed:
        raise failed[0]


def _memory(service: ours.Fedlas, calls: Sequence[Request]) -> Json:
    """The API's resident set with the hot model open, and the largest while all models are called in turn, twice."""
    port = service.running.port
    load.full(port, calls[0], seconds=1)
    before = service.api_memory_mb()
    seen = []
    for request in [*calls, *calls]:
        load.once(port, request)
        seen.append(service.api_memory_mb())
    return {"hot alone": round_to(before), "largest": round_to(max(seen)), "growth": round_to(max(seen) - before)}


def growth(model: ServedModel, *, requests: int) -> Json:
    """The API's resident set over so many requests, in turn to `/v1` and `/v2`, sampled every 50,000."""
    row = model.rows[:1]
    with ours.serving() as service:
        (model_id,) = service.upload([model.content])
        ways = [ours.predict(model_id, row, top_k=3, abstain_below=0.8), ours.infer(model_id, row)]
        port = service.running.port
        rate, total = load.full(port, ways[0], seconds=2)["per_second"], 0
        counts, memory = [0], [service.api_memory_mb()]
        for way in itertools.cycle(ways):
            if total >= requests:
                break
            found = load.full(port, way, seconds=min(_SAMPLE_EVERY, requests) / rate)
            rate, total = float(found["per_second"]), total + int(found["requests"])
            counts.append(total)
            memory.append(service.api_memory_mb())
            print(f"  {total:,} requests: {memory[-1]:.1f} MB", flush=True)
    return {
        "requests": total,
        "memory_mb": {str(count): round_to(megabytes) for count, megabytes in zip(counts, memory, strict=True)},
        "slope_mb_per_million": _slope(np.array(counts), np.array(memory)),
    }


def _slope(counts: Array, memory: Array) -> float | None:
    """Of a line through the later half: at first caches fill."""
    later = counts >= counts[-1] / 2
    return round_to(1e6 * float(np.polyfit(counts[later], memory[later], 1)[0])) if later.sum() > 2 else None
