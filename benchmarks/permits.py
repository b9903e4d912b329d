"""FLUSHALL under 10,000 queued jobs: seconds until the broker holds a permit for each again, and whether ever for more.

    python -m benchmarks.permits --queued 10000 --rounds 3

A real worker for calibrations trains one job, so that it takes no permit, and its watch sends those that are missing.
First all of them are, since the rows come by the registry and not by an API; then everything in the broker is removed,
once in every round. Permits are those in the broker's list and those that a worker has not acknowledged yet; after each
round they are counted for ten more seconds, and the most that was ever seen is told.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import redis

from benchmarks.api_process import Api, Json, parser, running_api, tell
from benchmarks.celery_workers import LIGHT, celery_worker, training_job
from benchmarks.claims import fill
from service.registry.contract import ANY_DEVICE

_LONGEST_S, _AFTERWARDS_S, _EVERY_S = 120.0, 10.0, 0.02


class Permits:
    """The permits of one queue in the broker."""

    def __init__(self, broker_url: str) -> None:
        self._broker = redis.Redis.from_url(broker_url)
        self.most = 0

    def count(self) -> int:
        """How many there are now: waiting, and taken but not acknowledged."""
        found = int(self._broker.llen(ANY_DEVICE)) + int(self._broker.hlen("unacked"))
        self.most = max(self.most, found)
        return found

    def seconds_until(self, wanted: int) -> float:
        """How long it takes until there are so many."""
        began = time.perf_counter()
        while self.count() < wanted:
            assert time.perf_counter() - began < _LONGEST_S, f"{self.count()} of {wanted} permits"
            time.sleep(_EVERY_S)
        return time.perf_counter() - began

    def flush(self) -> None:
        """Remove everything from the broker."""
        self._broker.flushall()

    def watch(self) -> None:
        """Count for a while."""
        end = time.perf_counter() + _AFTERWARDS_S
        while time.perf_counter() < end:
            self.count()
            time.sleep(_EVERY_S)


def measure(api: Api, queued: int, rounds: int) -> Json:
    """Fill the queue beside a busy worker, then flush again and again."""
    permits = Permits(api.environment["FEDLAS_BROKER_URL"])
    with _busy_worker(api):
        fill(api.registry, queued)
        first = permits.seconds_until(queued)
        permits.watch()
        seconds = []
        for _ in range(rounds):
            permits.flush()
            seconds.append(permits.seconds_until(queued))
            permits.watch()
    return {
        "queued": queued,
        "first_sent_s": round(first, 2),
        "again_after_flushall_s": [round(one, 2) for one in seconds],
        "most_permits_ever": permits.most,
    }


@contextmanager
def _busy_worker(api: Api) -> Iterator[None]:
    """A worker for calibrations that has one; another inspects its files and is gone again."""
    with ExitStack() as stack:
        stack.enter_context(celery_worker(api.environment, (ANY_DEVICE,)))
        with celery_worker(api.environment, LIGHT):
            stack.enter_context(training_job(api))
        yield


def main() -> None:
    """Measure and print JSON."""
    options = parser(__doc__)
    options.add_argument("--queued", type=int, default=10_000)
    options.add_argument("--rounds", type=int, default=3)
    args = options.parse_args()
    results: Json = {}
    for backend in args.backends:
        with running_api(backend) as api:
            results[backend] = measure(api, args.queued, args.rounds)
            results[backend]["load_average"] = round(os.getloadavg()[0], 2)
    tell(results, args.out)


if __name__ == "__main__":
    main()
