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
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedlas.client import Client, ClientError, Job
from fedlas.contract.events import JobEvent, ProgressEvent

Json = dict[str, Any]

#: PyTorch is loaded once meanwhile: with CUDA 2.5 GB, of a disk that may be cold.
_START_S = 300.0
_LOG = "serve.log"
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
        if code := write_files(folder):
            console.print("The classifier could not be trained. What is missing here: fedlas doctor")
            return code
        console.print("[bold]2.[/] Starting the service …")
        try:
            with _service(folder) as url, Client(url, on_warning=console.print) as client:
                job = _calibrate(console, client, folder, short=short)
                report = job.report()
                _print_table(console, report.raw)
                _print_predictions(console, client, folder, job)
                console.print(f"\n[bold]6.[/] {report}")
        except ClientError as error:
            console.print(f"{error}\nThe log of the service ends with:\n{_end_of_log(folder)}")
            return 1
    return 0


def write_files(folder: Path) -> int:
    """Write `digits.onnx`, `digits.npz` and `fresh.npz` into a folder and return the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run([sys.executable, "-m", "worker.demo_model", str(folder)]).returncode


@contextmanager
def _service(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    options = ["--port", url.rpartition(":")[2], "--data-dir", str(folder / "data")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FEDLAS_")}
    with (folder / _LOG).open("wb") as log:
        command = [sys.executable, "-m", "service.cli", "serve", *options]
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        _await_ready(url, server, folder)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def _await_ready(url: str, server: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the service did not start:\n{_end_of_log(folder)}")


def _end_of_log(folder: Path) -> str:
    return "\n".join((folder / _LOG).read_text(errors="replace").splitlines()[-20:])


def _calibrate(console: Console, client: Client, folder: Path, *, short: bool) -> Job:
    console.print("[bold]3.[/] Uploading the model and 4,500 labelled digits, and creating a calibration job …")
    columns = (TextColumn("   {task.description:<44}"), BarColumn(30), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("queued", total=1.0)

        def show(event: JobEvent) -> None:
            if isinstance(event, ProgressEvent):
                progress.update(bar, completed=event.data.fraction, description=event.data.candidate or "calibrating")

        job = client.calibrate(
            folder / "digits.onnx",
            folder / "digits.npz",
            on_event=show,
            budget={"minutes": 2, "candidates": 1 if short else 6},
            publish_as="digits",
        )
        progress.update(bar, completed=1.0, description=job.status)
    return job


def _print_table(console: Console, report: Json) -> None:
    rows = report["num_test_rows"]
    console.print(f"\n[bold]4.[/] Judged once on {rows:,} test rows, each value with its 95 % interval:\n")
    table = Table(caption="* brackets hold the range that a perfectly calibrated model would score: the noise floor")
    table.add_column("metric")
    for _, title in _MODELS:
        table.add_column(title, justify="right")
    for metric, title in _METRICS:
        table.add_row(title, *(_shown(report["metrics"][name][metric]) for name, _ in _MODELS))
    console.print(table)


def _shown(estimate: Json) -> str:
    low, high = (estimate.get(key, estimate.get(f"floor_{key}")) for key in ("low", "high"))
    return f"{estimate['value']:.3f} [{low:.3f}, {high:.3f}]"


def _print_predictions(console: Console, client: Client, folder: Path, job: Job) -> None:
    with np.load(folder / "fresh.npz") as fresh:
        rows, labels = fresh["x"], fresh["label"]
    uploaded, calibrated = (client.predict(str(model), rows) for model in (job.model_id, job.calibrated_model_id))
    wrong_first = np.argsort(-uploaded.confidences * (uploaded.labels != labels), kind="stable")
    console.print(
        f"\n[bold]5.[/] {_SHOWN} of {len(labels)} digits that the service had never seen: "
        "the five surest mistakes of the uploaded model, then the first five:\n"
    )
    table = Table("truth", "uploaded says", "how sure", "calibrated says", "how sure")
    for row in (*wrong_first[: _SHOWN // 2], *range(_SHOWN // 2)):
        told = (
            text for one in (uploaded, calibrated) for text in (str(one.labels[row]), f"{one.confidences[row]:.1%}")
        )
        table.add_row(str(labels[row]), *told)
    console.print(table)
    for title, answers in (("uploaded", uploaded), ("calibrated", calibrated)):
        sure, right = np.mean(answers.confidences), np.mean(answers.labels == labels)
        console.print(f"   on all {len(labels)} of them the {title} model is right on {right:.1%} and says {sure:.1%}")
