"""How many jobs per second one API process accepts through HTTP, and how long each request takes.

    python -m benchmarks.job_creation --jobs 3000 --connections 16

A real `fedlas api` over a real database and broker; no worker. The client is this process, so that server, client,
broker and database share the machine's cores; it writes plain HTTP/1.1 on connections that are kept. Model and dataset
are ready, so that every job also sends a message to the broker. `--keys` gives every request an `Idempotency-Key` of
its own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator

from benchmarks.api_process import Api, Json, parser, percentile, running_api, tell

_WARM_UP = 200
_LONGEST_S = 120.0


async def create(port: int, body: bytes, numbers: Iterator[int], *, keys: bool) -> list[float]:
    """Create jobs on one connection until the numbers end; returns the seconds of each request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n"
    seconds = []
    for number in numbers:
        began = time.perf_counter()
        key = f"Idempotency-Key: {number}\r\n" if keys else ""
        writer.write(f"{head}{key}\r\n".encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        seconds.append(time.perf_counter() - began)
        assert answer.startswith(b"HTTP/1.1 202 "), answer
    writer.close()
    return seconds


async def load(port: int, body: bytes, numbers: range, connections: int, *, keys: bool) -> tuple[float, list[float]]:
    """Share the jobs among the connections; returns the seconds of all together and of each request."""
    shared = iter(numbers)
    began = time.perf_counter()
    async with asyncio.timeout(_LONGEST_S):
        shares = await asyncio.gather(*(create(port, body, shared, keys=keys) for _ in range(connections)))
    return time.perf_counter() - began, sorted(itertools.chain.from_iterable(shares))


def measure(api: Api, jobs: int, connections: int, *, keys: bool) -> Json:
    """Warm up, then create so many jobs."""
    model, dataset = api.ready_records()
    body = json.dumps({"model_id": model, "dataset_id": dataset, "metadata": {"team": "x"}}).encode()
    asyncio.run(load(api.port, body, range(_WARM_UP), connections, keys=keys))
    computed = api.cpu_seconds()
    wall, seconds = asyncio.run(load(api.port, body, range(_WARM_UP, _WARM_UP + jobs), connections, keys=keys))
    return {
        "jobs": jobs,
        "connections": connections,
        "per_second": round(jobs / wall, 1),
        "p50_ms": round(1000 * percentile(seconds, 0.5), 2),
        "p99_ms": round(1000 * percentile(seconds, 0.99), 2),
        "slowest_ms": round(1000 * seconds[-1], 2),
        "api_cpu_ms_per_job": round(1000 * (api.cpu_seconds() - computed) / jobs, 2),
        "memory_peak_mb": round(api.memory_peak_mb(), 1),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--jobs", type=int, default=3000)
    options.add_argument("--connections", type=int, default=16)
    options.add_argument("--keys", action="store_true")
    args = options.parse_args()
    results = {}
    for backend in args.backends:
        with running_api(backend) as api:
            results[backend] = measure(api, args.jobs, args.connections, keys=args.keys)
    tell(results, args.out)


if __name__ == "__main__":
    main()
