"""Progress: what a client sees of jobs of about one, three and five minutes, through HTTP.

`fedlas serve` runs on loopback; each job is polled once a second, and its events are read when it has ended. The goals:
10 s at most without an event and without progress, an ETA that is 30 % off at half time at most, and 110 % of
`budget.minutes` at most, from the start of the job to its end. Other work on the machine counts against all of them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import torch
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from torch import nn

from benchmarks.data.common import Array
from benchmarks.jobs import Json, running_service
from fedlas.losses import CrossEntropyLoss

_POLL_S = 1.0
_FINAL = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Job:
    """A network, how many noisy digits of how many pixels a side it is calibrated on, and the budget."""

    network: Callable[[], nn.Module]
    rows: int
    side: int
    minutes: float


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def wide_cnn() -> nn.Module:
    """Its epochs take several seconds on one core."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(48, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


JOBS = {
    "mlp": Job(mlp, 12_000, 8, 1.0),
    "cnn": Job(cnn, 6_000, 28, 3.0),
    "wide": Job(wide_cnn, 1_200, 28, 5.0),
}


@dataclass(frozen=True)
class Seen:
    """A job at one moment: seconds since its start, the share that is done, and the ETA."""

    seconds: float
    fraction: float
    eta: float | None


def figures(seen: Sequence[Seen], events: Sequence[float], seconds: float, minutes: float) -> Json:
    """What the goals are about; `events` and `seconds`, the job's end, count from its start."""
    half = min(seen, key=lambda one: abs(one.seconds - seconds / 2))
    left = seconds - half.seconds
    moved = [0.0, *(two.seconds for one, two in pairwise(seen) if two.fraction > one.fraction), seconds]
    steps = [two.fraction - one.fraction for one, two in pairwise(seen)]
    return {
        "seconds": round(seconds, 1),
        "of the budget": round(seconds / (60 * minutes), 3),
        "longest without an event": round(max(b - a for a, b in pairwise([0.0, *events, seconds])), 1),
        "longest without progress": round(max(b - a for a, b in pairwise(moved)), 1),
        "largest step": round(max(steps, default=0.0), 3),
        "largest step back": round(-min(steps, default=0.0), 3),
        "without an ETA": round(sum(one.eta is None for one in seen) / max(1, len(seen)), 3),
        "error of the ETA at half time": None if half.eta is None else round(abs(half.eta - left) / left, 3),
    }


def _run(client: httpx.Client, name: str, job: Job) -> Json:
    rows = _rows(job)
    model = _ready(client, "models", f"name={name}", _trained(job, rows))
    content = io.BytesIO()
    np.savez(content, **rows)
    dataset = _ready(client, "datasets", f"name={name}&seen_by_model=no", content.getvalue())
    order = {"model_id": model["id"], "dataset_id": dataset["id"], "budget": {"minutes": job.minutes}}
    planned = _ended(client, _posted(client, "/v1/jobs?dry_run=true", order))[0]
    record, seen = _ended(client, _posted(client, "/v1/jobs", order))
    began = datetime.fromisoformat(record["started_at"])
    events = client.get(f"/v1/jobs/{record['id']}/events", params={"limit": 1000}).json()["data"]
    times = sorted((datetime.fromisoformat(event["at"]) - began).total_seconds() for event in events)
    seconds = (datetime.fromisoformat(record["finished_at"]) - began).total_seconds()
    told = figures(seen, [one for one in times if one >= 0], seconds, job.minutes)
    estimate = planned["plan"]["estimate"]
    trained = sum(event["type"] == "candidate" for event in events)
    return {
        "job": name,
        "verdict": record["verdict"] or record["error"],
        **told,
        "minutes planned": estimate["minutes"],
        "candidates told of": trained,
        "stages": {
            event["data"]["stage"]: round((datetime.fromisoformat(event["at"]) - began).total_seconds(), 1)
            for event in reversed(events)
            if event["type"] == "stage"
        },
    }


def _posted(client: httpx.Client, path: str, order: Json) -> str:
    answer = client.post(path, json=order)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def _ended(client: httpx.Client, job_id: str) -> tuple[Json, list[Seen]]:
    """The record of a job that has ended, and how it was seen until then."""
    seen: list[Seen] = []
    while True:
        record: Json = client.get(f"/v1/jobs/{job_id}").json()
        if record["status"] == "running":
            began = datetime.fromisoformat(record["started_at"]).timestamp()
            progress = record["progress"]
            seen.append(Seen(time.time() - began, progress["fraction"], progress.get("eta_seconds")))
        if record["status"] in _FINAL:
            return record, seen
        time.sleep(_POLL_S)


def _ready(client: httpx.Client, kind: str, query: str, content: bytes) -> Json:
    record: Json = client.post(f"/v1/{kind}?{query}", content=content).raise_for_status().json()
    while record["status"] == "inspecting":
        record = client.get(f"/v1/{kind}/{record['id']}", params={"wait": 30}).json()
    assert record["status"] == "ready", record["error"]
    return record


def _rows(job: Job) -> dict[str, Array]:
    """Digits with noise, as often as needed."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(labels), job.rows)
    scaled = zoom(images.reshape(-1, 8, 8) / 16, (1, job.side / 8, job.side / 8), order=1)[chosen]
    noisy = (scaled + rng.normal(scale=0.7, size=scaled.shape)).astype(np.float32)
    wrong = rng.random(job.rows) < 0.1
    targets = np.where(wrong, rng.integers(0, 10, job.rows), labels[chosen])
    return {"x": noisy[:, None], "label": targets.astype(np.int64)}


def _trained(job: Job, rows: dict[str, Array]) -> bytes:
    """A network that knows a thousand rows of its own by heart, as ONNX."""
    torch.manual_seed(0)
    network, inputs = job.network(), torch.from_numpy(rows["x"][:1000])
    targets, loss = torch.from_numpy(rows["label"][:1000]), CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(8):
        for batch in torch.randperm(1000).split(50):
            optimizer.zero_grad()
            loss(network(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    content = io.BytesIO()
    axes = {"x": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(
        network.eval(),
        (inputs[:2],),
        content,
        input_names=["x"],
        output_names=["logits"],
        dynamic_axes=axes,
        dynamo=False,
    )
    return content.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", default=",".join(JOBS), help="comma-separated")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found = []
    with running_service(1) as url, httpx.Client(base_url=url, timeout=120) as client:
        for name in asked.jobs.split(","):
            found.append({**_run(client, name, JOBS[name]), "load": round(os.getloadavg()[1], 1)})
            print(json.dumps(found[-1], indent=1), flush=True)
    if asked.out is not None:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
