"""1,000 clients that wait at one API process: its memory, and how long after a job's end each of them knows.

    python -m benchmarks.waiting_clients --clients 1000 --jobs 100

Half the clients long-poll, half listen to events (SSE); they wait for several jobs, which then all end in one moment:
this process writes that into the database as a worker would. What the API needs while they only wait is told as well.
"""

from __future__ import annotations

import asyncio
import json
import time

from benchmarks.api_process import Api, Json, allow_many_files, parser, percentile, running_api, tell

_SETTLING_S = 5.0
_LONGEST_S = 60.0


async def poll(port: int, job_id: str, waiting: asyncio.Semaphore) -> float:
    """Wait by a long poll; returns the moment of its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /v1/jobs/{job_id}?wait=60 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    waiting.release()
    answer = await reader.read()
    moment = time.perf_counter()
    assert b'"status":"cancelled"' in answer, answer[:500]
    writer.close()
    return moment


async def listen(port: int, job_id: str, waiting: asyncio.Semaphore) -> float:
    """Wait for the final event on a stream; returns the moment of its arrival."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode())
    await reader.readuntil(b"id: 1\n")
    waiting.release()
    await reader.readuntil(b'"status":"cancelled"')
    moment = time.perf_counter()
    await reader.read()
    writer.close()
    return moment


def end(api: Api, job_ids: list[str]) -> None:
    """All jobs end in one transaction."""
    with api.registry.write() as unit:
        for job_id in job_ids:
            unit.jobs.change_status(unit.jobs.get(job_id), "cancelled")


async def wait_for_all(api: Api, job_ids: list[str], clients: int) -> Json:
    """Connect everybody, let them wait for a while, end the jobs, and tell when each client knew."""
    waiting = asyncio.Semaphore(0)
    ways = [
        (poll, listen)[number % 2](api.port, job_ids[number // 2 % len(job_ids)], waiting) for number in range(clients)
    ]
    began = time.perf_counter()
    tasks = [asyncio.create_task(way) for way in ways]
    async with asyncio.timeout(_LONGEST_S):
        for _ in tasks:
            await waiting.acquire()
        connected = time.perf_counter() - began
        await asyncio.sleep(_SETTLING_S)
        computed = api.cpu_seconds()
        await asyncio.sleep(_SETTLING_S)
        idle = (api.cpu_seconds() - computed) / _SETTLING_S
        await asyncio.to_thread(end, api, job_ids)
        ended = time.perf_counter()
        seconds = [moment - ended for moment in await asyncio.gather(*tasks)]
    results: Json = {"connected_in_s": round(connected, 2), "cpu_while_waiting": round(idle, 3)}
    for name, some in (("long_poll", seconds[::2]), ("sse", seconds[1::2])):
        ordered = sorted(some)
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "last": 1.0}
        results[name] = {"clients": len(some)} | {
            f"{key}_s": round(percentile(ordered, at), 3) for key, at in shares.items()
        }
    return results


def measure(api: Api, jobs: int, clients: int) -> Json:
    """Make the jobs, then wait for them."""
    model, dataset = api.ready_records()
    body = json.dumps({"model_id": model, "dataset_id": dataset}).encode()
    job_ids = [str(api.post("/v1/jobs", body)["id"]) for _ in range(jobs)]
    before = api.memory_peak_mb()
    results = asyncio.run(wait_for_all(api, job_ids, clients))
    memory = {"memory_peak_mb_before": round(before, 1), "memory_peak_mb": round(api.memory_peak_mb(), 1)}
    return {"clients": clients, "jobs": jobs, **memory, **results}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--clients", type=int, default=1000)
    options.add_argument("--jobs", type=int, default=100)
    args = options.parse_args()
    allow_many_files()
    results = {}
    for backend in args.backends:
        with running_api(backend) as api:
            results[backend] = measure(api, args.jobs, args.clients)
    tell(results, args.out)


if __name__ == "__main__":
    main()
