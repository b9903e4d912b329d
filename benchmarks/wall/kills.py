"""A serving process that is killed again and again: when its models answer next, and what those of another notice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from benchmarks.serving import load, models, ours
from benchmarks.serving.fleet import round_to
from benchmarks.serving.ours import Fedlas
from benchmarks.serving.payloads import Failed, Request
from benchmarks.wall.forms import Json
from service.ipc.placement import Placement

#: Two groups of keys, each with a process of its own.
_GROUPS = 2
_EVERY_S, _KILLS = 14.0, 4
_RATE = 200.0
_PAUSE_S = 0.005


def measured() -> Json:
    """Start two serving processes for two groups of keys, and kill that of the first."""
    keys = _keys()
    groups = str(_GROUPS)
    with ours.serving(
        FEDLAS_WALL="preferred",
        FEDLAS_API_PROCESSES=groups,
        FEDLAS_SERVING_GROUPS=groups,
        FEDLAS_API_KEYS=",".join(keys),
    ) as service:
        (model,) = service.upload([models.digits().content])
        killed, others = (ours.predict(model, models.digits().rows[:1]).with_headers(_with(key)) for key in keys)
        for request in (killed, others):
            load.once(service.running.port, request)
        time.sleep(_EVERY_S)
        seconds = _EVERY_S * _KILLS
        with _asked(service, killed):
            quiet = load.paced(service.running.port, others, load.arrivals(_RATE, seconds / 2, even=False))
        with _asked(service, killed) as client, _killing(service) as moments:
            busy = load.paced(service.running.port, others, load.arrivals(_RATE, seconds, even=False))
    gaps = [client.next_after(moment) - moment for moment in moments]
    return {
        "kills": len(gaps),
        "next answer, s": {"median": round_to(median(gaps)), "longest": round_to(max(gaps))},
        "p99 of the others, ms": {"quiet": round_to(quiet["p99_ms"]), "kills": round_to(busy["p99_ms"])},
        "slowest of the others, ms": {"quiet": round_to(quiet["slowest_ms"]), "kills": round_to(busy["slowest_ms"])},
        "ratio of p99": round_to(busy["p99_ms"] / quiet["p99_ms"]),
    }


def _keys() -> list[str]:
    """`key-of-the-benchmark`, by which models are uploaded, and another one; one for each group, in their order."""
    placement, path = Placement(_GROUPS), b"/v1/models/m/predict"
    by_place: dict[str, str] = {}
    for key in ("key-of-the-benchmark", *(f"key-of-the-benchmark-{number}" for number in range(100))):
        by_place.setdefault(placement.place(path, f"Bearer {key}".encode()), key)
    return [by_place[placement.place_of(f"serving-{number + 1}")] for number in range(_GROUPS)]


def _with(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@dataclass
class _Client:
    """One that asks every few milliseconds, over a new connection each time."""

    port: int
    request: Request
    answered: list[tuple[float, float]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.ended.wait(_PAUSE_S):
            began = time.perf_counter()
            try:
                load.once(self.port, self.request)
            except (OSError, Failed):
                continue
            self.answered.append((began, time.perf_counter()))

    def next_after(self, moment: float) -> float:
        """When the first request was answered that was sent after this moment."""
        return next((ended for began, ended in self.answered if began > moment), float("inf"))


@contextmanager
def _asked(service: Fedlas, request: Request) -> Iterator[_Client]:
    client = _Client(service.running.port, request)
    thread = threading.Thread(target=client.run)
    thread.start()
    try:
        yield client
    finally:
        client.ended.set()
        thread.join()


@contextmanager
def _killing(service: Fedlas) -> Iterator[list[float]]:
    moments: list[float] = []
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(_EVERY_S * 0.9):
            os.kill(int((service.data_dir / "run" / "serving-1.pid").read_text()), signal.SIGKILL)
            moments.append(time.perf_counter())

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield moments
    finally:
        ended.set()
        thread.join()
