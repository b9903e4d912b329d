"""The operations page: what waits, runs, is stuck and has failed, in sentences, also where something is away."""

from __future__ import annotations

import os
import re
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape
from starlette.testclient import TestClient

from fedlas.extras import cuda_remedy, has_gpu
from service.api.plumbing import probes
from service.queue import PermitSender
from service.registry import tables
from service.registry.errors import Unavailable
from service.registry.registry import Registry
from service.registry.settings import WorkerSettings
from service.registry.tables import new_id
from service.web import operations
from service.web.operations import Disk, Operations
from tests.helpers.api import Api
from tests.helpers.processes import free_port
from tests.helpers.work import add_worker

HOSTILE = "<script>alert('w')</script>"


@pytest.fixture
def browser(api: Api, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """A browser on a service without keys, with a broker at once, an empty disk and patience on a busy machine."""
    monkeypatch.setattr(api.services.notifier, "check", lambda: None)  # a look for one waits a second
    monkeypatch.setattr(probes, "_TIMEOUT_S", 60)
    monkeypatch.setattr(Disk, "of", lambda _: Disk(10**12, 10**12))
    headers = {"Accept": "text/html"}
    return TestClient(api.client.app, base_url="http://localhost", headers=headers, follow_redirects=False)


def waiting(registry: Registry, *, queue: str | None = None, for_seconds: float = 0.0, **values: Any) -> str:
    """A job whose model and dataset do not matter, due for so long."""
    with registry.write() as unit:
        row = tables.Job(
            id=new_id("job"), model_id="mdl_x", dataset_id="ds_x", status="queued", request={}, progress={},
            history=[], created_at=unit.now(),
        )  # fmt: skip
        unit.jobs.open(row)
        work = unit.work.open(row.id, queue=queue)
        work.not_before = unit.now() - timedelta(seconds=for_seconds)
        for name, value in values.items():
            setattr(work, name, value)
        return row.id


def read(registry: Registry) -> Operations:
    """The operations page's view of the registry."""
    with registry.read() as unit:
        return Operations.read(unit, {})


def test_an_idle_service_says_that_all_is_well(browser: TestClient) -> None:
    """Every part is there while it is empty, and what a script reads again is the changing part alone."""
    page = browser.get("/operations")
    assert page.status_code == 200
    assert re.findall(r'<div class="(?:wrong|warning)">.*?</div>', page.text, re.S) == []
    for sentence in ("All is well", "Nothing runs just now.", "No worker has registered", "Nothing has failed"):
        assert sentence in page.text
    part = browser.get("/operations", headers={"HX-Request": "true"}).text
    assert "All is well" in part
    assert "<html" not in part


def test_a_gpu_that_predictions_leave_idle_is_named(
    api: Api, browser: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an NVIDIA device and the provider for CPUs not all is well; the page says why, and what to install."""
    assert "<code>CPUExecutionProvider</code>, 1 process." in browser.get("/operations").text
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(operations, "has_gpu", partial(has_gpu, tmp_path))
    assert "All is well" in browser.get("/operations").text
    (tmp_path / "nvidia0").touch()
    page = browser.get("/operations").text
    assert "All is well" not in page
    assert "Predictions run on CPUExecutionProvider, although this machine has a GPU." in page
    assert escape(cuda_remedy()) in page
    monkeypatch.setattr(api.services.served_models, "processes", lambda: {"CUDAExecutionProvider": 2})
    page = browser.get("/operations").text
    assert "All is well" in page
    assert "<code>CUDAExecutionProvider</code>, 2 processes." in page


def test_work_that_no_living_worker_takes_is_named(api: Api, browser: TestClient) -> None:
    """Such work has its number, its queue, and what is known of the worker that used to take it."""
    for _ in range(3):
        waiting(api.registry, queue="calibrate.gpu", for_seconds=720)
    waiting(api.registry)
    add_worker(api.registry, "cpu", "calibrate.cpu")
    assert "3 jobs: no worker takes this yet; there is none with a GPU." in browser.get("/operations").text
    add_worker(api.registry, "gpu", "calibrate.gpu", silent_seconds=600, gpu=True)
    page = browser.get("/operations").text
    assert "3 jobs: no worker takes this; 1 of 2 has not been heard of for 10 min." in page
    lines = {line.queue: line for line in read(api.registry).queue_lines()}
    gpu = lines["calibrate.gpu"]
    assert (gpu.words, gpu.due, gpu.later, gpu.blocked, gpu.workers) == ("3 jobs", 3, 0, 0, 0)
    assert gpu.oldest_seconds == pytest.approx(720, abs=60)
    assert (lines["calibrate.cpu"].due, lines["calibrate.cpu"].workers) == (1, 1)
    add_worker(api.registry, "gpu", "calibrate.gpu", gpu=True)
    page = browser.get("/operations").text
    assert "no worker takes this" not in page
    assert "3 jobs could have been taken for 12 minutes, and nobody does." in page, "though a worker lives"


def test_what_waits_for_something_is_not_stuck(api: Api, browser: TestClient) -> None:
    """Blocked work, and what is due behind work of its queue that runs, of whatever kind, are no trouble."""
    add_worker(api.registry, "w", "calibrate.cpu")
    held = waiting(api.registry)
    with api.registry.write() as unit:
        assert unit.work.claim(held, worker="w", lease_seconds=60)
        unit.jobs.change_status(unit.jobs.get(held), "running")
    waiting(api.registry, for_seconds=3600)
    waiting(api.registry, for_seconds=3600, state="blocked")
    with api.registry.write() as unit:
        shard = new_id("shd")
        unit.work.open_all([shard], queue="calibrate.cpu", flow=held)
        unit.work.of(shard).not_before = unit.now() - timedelta(seconds=3600)
    found = read(api.registry)
    waits = {kind: (one.waiting, one.due, one.blocked) for (_, kind), one in found.work.items()}
    assert waits == {"calibrate": (2, 1, 1), "predict_shard": (1, 1, 0)}
    (running,) = found.held
    assert (running.record_id, running.worker, running.attempts) == (held, "w", 1)
    assert running.started_at is not None
    page = browser.get("/operations").text
    assert "nobody does" not in page
    assert f'href="/jobs/{held}"' in page
    with api.registry.write() as unit:
        assert unit.work.claim(shard, worker="w", lease_seconds=60)
    assert [(one.record_id, one.parent_id) for one in read(api.registry).held] == [(held, None), (shard, held)]
    assert re.search(rf'<code>{shard}</code>\s+of\s+<a href="/jobs/{held}">', browser.get("/operations").text)


def test_lost_work_says_why_and_when_it_is_tried_again(api: Api, browser: TestClient) -> None:
    """A process that was lost, a worker that handed the job back, and a lease that has ended."""
    lost, returned, late = (waiting(api.registry) for _ in range(3))
    with api.registry.write() as unit:
        for reason in ("its process ended: signal 9", "its process ended: signal 11"):
            unit.work.of(lost).not_before = unit.now()
            claim = unit.work.claim(lost, worker="w", lease_seconds=60)
            assert claim is not None
            unit.work.retry(claim, reason)
        claim = unit.work.claim(returned, worker="w", lease_seconds=60)
        assert claim is not None
        unit.jobs.change_status(unit.jobs.get(returned), "running")
        unit.work.release(claim, after_seconds=300)
        unit.requeue(returned, "its process could not be protected")
        unit.work.claim(late, worker="w", lease_seconds=-90)
    page = browser.get("/operations").text
    assert "1 job lost its process 2 times in a row: its process ended: signal 11." in page
    assert "1 job was given back: its process could not be protected." in page
    assert "It is tried again in 5 minutes." in page
    assert "1 job is held by a worker whose lease ended" in page
    assert all(f'href="/jobs/{record_id}"' in page for record_id in (lost, returned, late))


def test_errors_are_counted_by_their_code(api: Api, browser: TestClient) -> None:
    """Errors of the last day are counted, with their sentence and what to do, and the newest of each."""
    failed = [waiting(api.registry) for _ in range(3)]
    with api.registry.write() as unit:
        for record_id in failed:
            unit.jobs.fail(unit.jobs.get(record_id), {"code": "storage_full", "message": HOSTILE, "user_error": False})
        unit.jobs.get(failed[0]).finished_at = unit.now() - timedelta(days=2)
    model = api.post("/v1/models?name=x", content=b"no model")["id"]
    api.work(model)
    assert [(one.noun, one.code, one.number, one.newest_id) for one in read(api.registry).failures] == [
        ("job", "storage_full", 2, failed[2]),
        ("model", "not_onnx", 1, model),
    ]
    page = browser.get("/operations").text
    assert "The disk took no more." in page
    assert "Make room on the disk of the workers." in page
    assert f'href="/models/{model}"' in page


def test_names_of_workers_are_text(api: Api, browser: TestClient) -> None:
    """A machine's name is text, also in a sentence: that it is of another release."""
    add_worker(api.registry, HOSTILE, "inspect")
    with api.registry.write() as unit:
        unit.session.get_one(tables.WorkerProcess, HOSTILE).release = "9.9"
    page = browser.get("/operations").text
    assert "</bdi>” is release 9.9, this service" in page
    assert "&lt;script&gt;alert" in page
    assert "<script>alert" not in page


def test_a_model_in_quarantine_is_named(api: Api, browser: TestClient) -> None:
    """The page says for how long, and how its requests are answered."""
    api.post("/v1/models?name=hangs", content=b"served")
    with api.registry.write() as unit:
        (row,) = unit.models.newest(limit=1, after=None)
        row.served_sha256 = "ab" * 32
    api.services.quarantine.add("ab" * 32)
    api.services.quarantine.add("cd" * 32)
    gone = api.services.quarantine._folder
    assert gone is not None
    os.utime(gone / ("cd" * 32), (time.time() - 700, time.time() - 700))
    assert list(api.services.quarantine.suspended()) == ["ab" * 32]
    assert "The model “<bdi>hangs</bdi>” is out of service for another 10 minutes." in browser.get("/operations").text


def test_what_is_away_is_named_and_the_rest_is_shown(
    api: Api, browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a broker work is still found; without the database the page says what it cannot know."""
    nowhere = PermitSender(f"redis://127.0.0.1:{free_port()}")
    monkeypatch.setattr(api.services.notifier, "check", nowhere.check)
    page = browser.get("/operations").text
    assert "The broker does not answer (OperationalError)." in page
    assert "Nothing is lost" in page

    def away(*_: object) -> None:
        raise Unavailable("database_unavailable", "the database is away")

    monkeypatch.setattr(api.services.registry, "check", away)
    monkeypatch.setattr(api.services.registry, "read", away)
    without = browser.get("/operations")
    assert without.status_code == 200
    assert "The database does not answer (Unavailable)." in without.text
    assert "which does not answer right now" in without.text


def test_a_stopped_worker_is_seen(registry: Registry) -> None:
    """A worker that was registered and fell silent is still listed, as silent."""
    settings = WorkerSettings()
    add_worker(registry, "still", *settings.resolved_queues, silent_seconds=31)
    add_worker(registry, "well", *settings.resolved_queues, silent_seconds=5)
    assert [(one.row.name, one.lives) for one in read(registry).workers] == [("still", False), ("well", True)]
