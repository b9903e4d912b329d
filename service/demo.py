"""The demo: an overconfident classifier is calibrated and serves predictions, all over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

Json = dict[str, Any]

_START_S = 60.0
_METRICS = (
    ("accuracy", "accuracy ↑"),
    ("nll", "NLL ↓"),
    ("brier", "Brier ↓"),
    ("calibration_error_l2", "ℓ2 error ↓"),
    ("aurc", "AURC ↓"),
    ("ece", "ECE ↓ *"),
    ("adaptive_ece", "adaptive ECE ↓ *"),
    ("classwise_ece", "classwise ECE ↓ *"),
)
_MODELS = (("uploaded", "uploaded"), ("temperature", "uploaded + temperature"), ("calibrated", "calibrated"))
_SHOWN = 10


def run(*, short: bool = False) -> int:
    """Run the demo and return its exit code: 0 if all steps succeeded, whatever the verdict."""
    console = Console(width=110 if not sys.stdout.isatty() else None, highlight=False)
    with tempfile.TemporaryDirectory(prefix="fedlas-demo-") as name:
        folder = Path(name)
        console.print(
            "[bold]1.[/] Training a digit classifier until it is too sure of itself, and exporting it to ONNX …"
        )
        subprocess.run([sys.executable, "-m", "worker.demo_model", str(folder)], check=True)
        console.print("[bold]2.[/] Starting the service …")
        with _service(folder) as client:
            job = _calibrate(console, client, folder, short=short)
            if job["status"] != "succeeded":
                console.print(f"The job {job['status']}: {job['error']}")
                return 1
            report = client.get(f"/v1/jobs/{job['id']}/report").raise_for_status().json()
            _print_table(console, report)
            _print_predictions(console, client, folder, job)
            _print_verdict(console, report)
    return 0


def write_files(folder: Path) -> int:
    """Write `digits.onnx`, `digits.npz` and `fresh.npz` into a folder and return the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run([sys.executable, "-m", "worker.demo_model", str(folder)]).returncode


@contextmanager
def _service(folder: Path) -> Iterator[httpx.Client]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (folder / "serve.log").open("wb")
    command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port), "--data-dir", str(folder / "data")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FEDLAS_")}
    server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=90) as client:
            _await_ready(client, server, folder / "serve.log")
            yield client
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
        log.close()


def _await_ready(client: httpx.Client, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the service did not start:\n{log.read_text()}")


def _calibrate(console: Console, client: httpx.Client, folder: Path, *, short: bool) -> Json:
    console.print("[bold]3.[/] Uploading the model and 4,500 labelled digits, and creating a calibration job …")
    order = {
        "model_id": _upload(client, "/v1/models?name=digits", folder / "digits.onnx")["id"],
        "dataset_id": _upload(client, "/v1/datasets?name=digits", folder / "digits.npz")["id"],
        "budget": {"minutes": 2, "candidates": 1 if short else 6},
        "publish_as": "digits",
    }
    job: Json = client.post("/v1/jobs", json=order).raise_for_status().json()
    columns = (TextColumn("   {task.description:<44}"), BarColumn(30), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("queued", total=1.0)
        while job["status"] not in ("succeeded", "failed", "cancelled"):
            job = client.get(f"/v1/jobs/{job['id']}", params={"wait": 0.5}).raise_for_status().json()
            progress.update(bar, completed=job["progress"]["fraction"], description=_described(job))
        progress.update(bar, completed=1.0 if job["status"] == "succeeded" else None, description=job["status"])
    return job


def _described(job: Json) -> str:
    at = job["progress"]
    return f"{job['stage']}: {at['candidate']}" if at["candidate"] else str(job["stage"] or job["status"])


def _upload(client: httpx.Client, url: str, path: Path) -> Json:
    record: Json = client.post(url, content=path.read_bytes()).raise_for_status().json()
    record = client.get(f"{url.partition('?')[0]}/{record['id']}", params={"wait": 60}).raise_for_status().json()
    if record["status"] != "ready":
        raise SystemExit(f"{path.name} was not accepted: {record['error']}")
    return record


def _print_table(console: Console, report: Json) -> None:
    rows = report["num_test_rows"]
    console.print(f"\n[bold]4.[/] Judged once on {rows:,} test rows, each value with its 95 % interval:\n")
    table = Table(caption="* beside these the range that a perfectly calibrated model would score: the noise floor")
    table.add_column("metric")
    for _, title in _MODELS:
        table.add_column(title, justify="right")
    for metric, title in _METRICS:
        table.add_row(title, *(_shown(report["metrics"][name][metric]) for name, _ in _MODELS))
    console.print(table)
    for name, against in (("uploaded", "the uploaded model"), ("temperature", "uploaded + temperature")):
        differences = [(m, report["differences"][f"calibrated_minus_{name}"][m]) for m in ("nll", "brier", "accuracy")]
        parts = [f"{m} {d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]" for m, d in differences]
        console.print(f"   calibrated minus {against}: {', '.join(parts)}")


def _shown(estimate: Json) -> str:
    low, high = (estimate.get(key, estimate.get(f"floor_{key}")) for key in ("low", "high"))
    return f"{estimate['value']:.3f} [{low:.3f}, {high:.3f}]"


def _print_predictions(console: Console, client: httpx.Client, folder: Path, job: Json) -> None:
    with np.load(folder / "fresh.npz") as fresh:
        rows, labels = fresh["x"], fresh["label"]
    uploaded = _predict(client, job["model_id"], rows)
    calibrated = _predict(client, job["calibrated_model_id"], rows)
    wrong = [answer["label"] != str(label) for answer, label in zip(uploaded, labels, strict=True)]
    wrong_first = sorted(range(len(labels)), key=lambda row: -uploaded[row]["confidence"] * wrong[row])
    console.print(
        f"\n[bold]5.[/] {_SHOWN} of {len(labels)} digits that the service had never seen: "
        "the five surest mistakes of the uploaded model, then the first five:\n"
    )
    table = Table("truth", "uploaded says", "how sure", "calibrated says", "how sure")
    for row in (*wrong_first[: _SHOWN // 2], *range(_SHOWN // 2)):
        told = [(one["label"], f"{one['confidence']:.1%}") for one in (uploaded[row], calibrated[row])]
        table.add_row(str(labels[row]), *chain.from_iterable(told))
    console.print(table)
    for title, answers in (("uploaded", uploaded), ("calibrated", calibrated)):
        sure = np.mean([answer["confidence"] for answer in answers])
        right = np.mean([answer["label"] == str(label) for answer, label in zip(answers, labels, strict=True)])
        console.print(f"   on all {len(labels)} of them the {title} model is right on {right:.1%} and says {sure:.1%}")


def _predict(client: httpx.Client, model_id: str, rows: np.ndarray) -> list[Json]:
    answer = client.post(f"/v1/models/{model_id}/predict", json={"inputs": rows.tolist()})
    predictions: list[Json] = answer.raise_for_status().json()["predictions"]
    return predictions


def _print_verdict(console: Console, report: Json) -> None:
    better = ", shown to be better" if report["significant"] else ""
    console.print(f"\n[bold]6.[/] Verdict: [bold]{report['verdict']}[/]{better}")
    for sentence in (*report["advice"], *report["warnings"]):
        console.print(f"   • {sentence}")
