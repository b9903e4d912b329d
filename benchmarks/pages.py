"""What pages weigh and how soon they are there: the first one, a report of 1,000 classes and 50 slices, live ones.

    python -m benchmarks.pages --listeners 200 --out pages.json

A headless Chromium reads the pages of one API process on loopback. Weights are what comes over the wire, all files
together and nothing from a cache; a page can be used when it is painted, its scripts have run, and no task of more than
50 ms is left. There is no worker: this process writes a job's events into the database as a worker would.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from playwright.sync_api import Browser

from benchmarks.api_process import Api, Json, allow_many_files, parser, percentile, running_api, tell
from benchmarks.report_page import large_report
from fedlas.report import CalibrationReport, report_html
from tests.helpers.browser import Window, headless, weighed
from tests.helpers.programs import chromium

_VISITS = 9
_EPOCHS = 40
_PAUSE_S = 0.05
_WARM_UP_S = 3.0
#: Pages and answers that somebody asks for while others look at live pages.
_ASKED = ("/", "/jobs", "/jobs/{job_id}", "/v1/jobs?limit=20", "/v1/jobs/{job_id}", "/healthz")
#: Tells when the page was painted and when it could be used, in seconds since it was asked for.
_MOMENTS = """() => new Promise(tell => {
  const tasks = [];
  new PerformanceObserver(list => tasks.push(...list.getEntries())).observe({type: 'longtask', buffered: true});
  setTimeout(() => {
    const painted = performance.getEntriesByName('first-contentful-paint')[0].startTime;
    const ready = performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd;
    const ends = tasks.map(one => one.startTime + one.duration);
    tell([painted / 1000, Math.max(painted, ready, ...ends) / 1000]);
  }, 500);
})"""


@contextmanager
def opened(browser: Browser, api: Api) -> Iterator[Window]:
    """A window without anything in its cache."""
    window = Window(browser, f"http://127.0.0.1:{api.port}", viewport={"width": 1200, "height": 800})
    yield window
    window.close()


def visit(browser: Browser, api: Api, path: str) -> Json:
    """What a page weighs over the wire, and when it is there: the median and the slowest of some first visits."""
    painted, usable = [], []
    for _ in range(_VISITS):
        with opened(browser, api) as window:
            weights = weighed(window.page)
            window.page.goto(path)
            moments = window.page.evaluate(_MOMENTS)
        painted.append(moments[0])
        usable.append(moments[1])
    return {
        "kilobytes": round(sum(weights.values()) / 1000, 1),
        "files": {name.rpartition("/")[2]: size for name, size in weights.items()},
        "first_paint_s": {"median": round(median(painted), 3), "slowest": round(max(painted), 3)},
        "usable_s": {"median": round(median(usable), 3), "slowest": round(max(usable), 3)},
    }


def with_report(api: Api, report: CalibrationReport) -> str:
    """A job of the registry that has ended with this report; its id."""
    job_id = ordered_job(api)
    digests = []
    for content in (json.dumps(report.as_dict()).encode(), report_html(report).encode()):
        with api.registry.artifacts.stage() as staged:
            staged.write(content)
            digests.append(staged.keep())
    with api.registry.write() as unit:
        row = unit.jobs.get(job_id)
        unit.jobs.change_status(row, "running")
        row.report_sha256, row.page_sha256 = digests
        row.verdict, row.promoted, row.shown = "post_hoc", True, True
        unit.jobs.change_status(row, "succeeded")
    return job_id


def ordered_job(api: Api) -> str:
    """A job that waits."""
    model, dataset = api.ready_records()
    return str(api.post("/v1/jobs", json.dumps({"model_id": model, "dataset_id": dataset}).encode())["id"])


def first_page(browser: Browser, api: Api) -> Json:
    """The page that everybody sees first."""
    return visit(browser, api, "/")


def report_page(browser: Browser, api: Api) -> Json:
    """The page of a large report."""
    return visit(browser, api, f"/jobs/{with_report(api, large_report())}/report")


def live_page(browser: Browser, api: Api) -> Json:
    """From the row of an event to the words on the page of its job: every epoch of a candidate."""
    job_id = ordered_job(api)
    begin(api, job_id)
    seconds = []
    with opened(browser, api) as window:
        window.page.goto(f"/jobs/{job_id}")
        for epoch in range(1, _EPOCHS + 1):
            tell_epoch(api, job_id, epoch)
            written = time.perf_counter()
            window.page.get_by_text(f"epoch {epoch} of {_EPOCHS + 1}").first.wait_for(timeout=10_000)
            seconds.append(time.perf_counter() - written)
    ordered = sorted(seconds)
    return {"events": _EPOCHS, "median_s": round(median(ordered), 3), "slowest_s": round(ordered[-1], 3)}


def many_live_pages(api: Api, listeners: int, jobs: int, seconds: float) -> Json:
    """What other requests take while so many live pages are open and all jobs move."""
    job_ids = [ordered_job(api) for _ in range(jobs)]
    for job_id in job_ids:
        begin(api, job_id)
    moving = threading.Event()
    mover = threading.Thread(target=_move, args=(api, job_ids, moving), daemon=True)
    mover.start()
    try:
        alone = asyncio.run(_listen_and_ask(api.port, job_ids, 0, seconds))
        before = api.cpu_seconds()
        result = asyncio.run(_listen_and_ask(api.port, job_ids, listeners, seconds))
    finally:
        moving.set()
        mover.join()
    cpu = (api.cpu_seconds() - before) / (seconds + _WARM_UP_S)
    return {"without_listeners": alone, **result, "cpu": round(cpu, 2), "memory_mb": round(api.memory_peak_mb())}


async def _listen_and_ask(port: int, job_ids: list[str], listeners: int, seconds: float) -> Json:
    connected = asyncio.Semaphore(0)
    heard = [0] * listeners
    streams = [
        asyncio.create_task(_listen(port, job_ids[number % len(job_ids)], connected, heard, number))
        for number in range(listeners)
    ]
    for _ in streams:
        await connected.acquire()
    await asyncio.to_thread(_ask, port, job_ids[0], _WARM_UP_S)
    answers = await asyncio.to_thread(_ask, port, job_ids[0], seconds)
    for stream in streams:
        stream.cancel()
    asked = {path: sorted(times) for path, times in answers.items()}
    everything = sorted(time for times in asked.values() for time in times)
    return {
        "listeners": listeners,
        "silent": heard.count(0),
        "requests": len(everything),
        "p50_ms": round(percentile(everything, 0.5) * 1000, 1),
        "p99_ms": round(percentile(everything, 0.99) * 1000, 1),
        "p99_ms_of": {path: round(percentile(times, 0.99) * 1000, 1) for path, times in asked.items()},
    }


async def _listen(port: int, job_id: str, connected: asyncio.Semaphore, heard: list[int], number: int) -> None:
    """What the tab of a live page does; `heard` counts what comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"GET /live?job={job_id} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
    writer.write(head.encode())
    try:
        assert b" 200 " in await reader.readline()
        connected.release()
        while piece := await reader.read(65_536):
            heard[number] += piece.count(b"\ndata:")
    finally:
        writer.close()


def _ask(port: int, job_id: str, seconds: float) -> dict[str, list[float]]:
    """Ask one after the other, as somebody who reads; seconds of each answer, by path."""
    took: dict[str, list[float]] = {path: [] for path in _ASKED}
    connection = http.client.HTTPConnection("127.0.0.1", port)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for path in _ASKED:
            began = time.perf_counter()
            connection.request("GET", path.format(job_id=job_id), headers={"Accept": "text/html, */*"})
            answer = connection.getresponse()
            answer.read()
            took[path].append(time.perf_counter() - began)
            assert answer.status == 200, (path, answer.status)
        time.sleep(_PAUSE_S)
    connection.close()
    return took


def begin(api: Api, job_id: str) -> None:
    """Its training has begun."""
    with api.registry.write() as unit:
        row = unit.jobs.get(job_id)
        unit.jobs.change_status(row, "running")
        unit.jobs.enter_stage(row, "training")


def tell_epoch(api: Api, job_id: str, epoch: int) -> None:
    """One more epoch of its only candidate is over."""
    told = {
        "candidate": "cross_entropy",
        "number": 1,
        "fold": None,
        "folds": None,
        "epoch": epoch,
        "epochs": _EPOCHS + 1,
    }
    with api.registry.write() as unit:
        unit.events.add(job_id, "epoch", {**told, "loss": 1 / epoch, "learning_rate": 0.03, "seconds": float(epoch)})


def _move(api: Api, job_ids: list[str], over: threading.Event) -> None:
    """Every job moves twice a second, until this is over."""
    for epoch in itertools.count(1):
        for job_id in job_ids:
            tell_epoch(api, job_id, epoch)
            if over.wait(0.5 / len(job_ids)):
                return


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--listeners", type=int, default=200)
    options.add_argument("--jobs", type=int, default=20)
    options.add_argument("--seconds", type=float, default=30)
    args = options.parse_args()
    allow_many_files()
    executable = chromium()
    assert executable is not None, "no Chromium was found"
    results = {}
    for backend in args.backends:
        with running_api(backend) as api:
            with headless(executable) as browser:
                found = {part.__name__: part(browser, api) for part in (first_page, report_page, live_page)}
            found["many_live_pages"] = many_live_pages(api, args.listeners, args.jobs, args.seconds)
            results[backend] = found
    tell(results, args.out)


if __name__ == "__main__":
    main()
