"""The whole service on a card: a job, its end by force, its cancellation, two at once, and a card that is full.

A service is started since what is asked is which process gets the card, and what becomes of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
helpers = pytest.importorskip("tests.helpers.service", exc_type=ImportError)
pytest.importorskip("tests.helpers.uploads", exc_type=ImportError)

from fedlas.extras import installed
from tests.helpers.service import Json, Service, children_of, serving, until
from tests.helpers.uploads import Uploads

pytestmark = pytest.mark.gpu
LONG = {"hyperparameters": {"epochs": 100}, "budget": {"minutes": 1, "candidates": 2}, "accelerator": "gpu"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose heavy worker may run two jobs at once, if it finds two cards."""
    settings = {"FEDLAS_HEARTBEAT_SECONDS": "0.5", "FEDLAS_SWEEP_SECONDS": "2", "FEDLAS_HEAVY_CONCURRENCY": "2"}
    with serving(tmp_path_factory.mktemp("gpu") / "data", **settings) as running:
        yield running


@pytest.fixture(scope="module")
def digits(service: Service) -> tuple[Json, Json]:
    """A model and a dataset that were inspected."""
    uploads = Uploads()
    ready = [service.inspected(f"{kind}s", uploads[file]) for kind, file in _FILES.items()]
    return ready[0], ready[1]


_FILES = {"model": "digits.onnx", "dataset": "digits.npz"}


def training_children(service: Service) -> list[int]:
    """Children of the worker that trains."""
    return children_of(service.pid("worker"))


def cards_of(pid: int) -> str:
    """CUDA_VISIBLE_DEVICES of a process; empty where it has none, or has ended."""
    with suppress(OSError):
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return next((entry.partition(b"=")[2].decode() for entry in entries if entry.startswith(b"CUDA_VISIBLE")), "")
    return ""


def trains(service: Service, job: Json) -> None:
    until(lambda: service.job(job["id"])["stage"] == "training", seconds=120, what="the job trains")


def test_a_job_runs_on_the_card(
    service: Service, digits: tuple[Json, Json], figure: Callable[[str, str, str], None]
) -> None:
    """A job that asked for a GPU ends well, and its report names this card."""
    job = service.calibrated(*digits, accelerator="gpu", publish_as="digits")
    device = service.get(job["report_url"])["machine"]["device"]
    figure("a job of digits on the service", f"{job['verdict']} on {device}", "")
    assert device == torch.cuda.get_device_name(0)
    assert len(service.predict("digits", [[0.5] * 64])) == 1
    provider = service.get("/readyz")["inference"]
    figure("provider of predictions behind the wall", str(provider), "CUDAExecutionProvider with onnxruntime-gpu")
    assert provider == "CUDAExecutionProvider" or installed("onnxruntime-gpu") is None
    metrics = service.client.get("/metrics").text
    assert f'provider="{provider}"' in metrics


def test_a_killed_training_goes_on(service: Service, digits: tuple[Json, Json]) -> None:
    """SIGKILL of a child that trains on the card: its memory is free again, and the second attempt succeeds."""
    job = service.order(*digits, **LONG)
    trains(service, job)
    free = torch.cuda.mem_get_info()[0]
    (child,) = training_children(service)
    os.kill(child, signal.SIGKILL)
    until(lambda: torch.cuda.mem_get_info()[0] > free, seconds=20, what="the memory of the child is free")
    ended = service.ended(job["id"])
    assert (ended["status"], ended["attempts"]) == ("succeeded", 2), service.log


def test_a_cancelled_training_frees_the_card(service: Service, digits: tuple[Json, Json]) -> None:
    """A cancelled job ends its child within seconds, and its memory is free again."""
    job = service.order(*digits, **LONG)
    trains(service, job)
    free = torch.cuda.mem_get_info()[0]
    service.client.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()
    assert service.ended(job["id"])["status"] == "cancelled"
    until(lambda: torch.cuda.mem_get_info()[0] > free, seconds=30, what="the memory of its child is free")


def test_each_card_has_one_child(service: Service, digits: tuple[Json, Json]) -> None:
    """Two jobs at once never share a card: with one card the second waits, and both succeed."""
    jobs = [service.order(*digits, **LONG, seed=seed) for seed in (1, 2)]
    shared: list[list[str]] = []

    def all_ended() -> bool:
        cards = [card for card in map(cards_of, training_children(service)) if "-" in card]  # a UUID
        if len(cards) != len(set(cards)):
            shared.append(cards)
        return all(service.job(job["id"])["status"] in helpers.FINAL for job in jobs)

    until(all_ended, seconds=240, what="both jobs end")
    assert [service.job(job["id"])["status"] for job in jobs] == ["succeeded"] * 2, service.log
    assert shared == []


def test_a_full_card_gives_the_job_to_the_cpu(service: Service, digits: tuple[Json, Json]) -> None:
    """Where the card has no memory left the job succeeds on the CPU, and its record says so."""
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(1, free - 64 * 1024**2), dtype=torch.uint8, device="cuda")
    try:
        job = service.ended(service.order(*digits, accelerator="gpu", seed=3)["id"])
    finally:
        del taken
        torch.cuda.empty_cache()
    assert job["status"] == "succeeded", (job, service.log)
    assert "card_too_small" in [warning["code"] for warning in job["warnings"]]
    assert service.get(job["report_url"])["machine"]["device"] == "CPU"


def test_the_demo(tmp_path: Path) -> None:
    """`fedlas demo --short` ends well on this machine."""
    command = [sys.executable, "-m", "service.cli", "demo", "--short"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
