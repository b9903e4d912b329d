"""The metrics of a worker: counted where it happens, in words of ours, and read over HTTP."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from service.registry import tables
from service.registry.errors import LeaseLost
from service.registry.registry import Registry
from service.registry.repositories import Ended, NewPiece
from service.registry.settings import WorkerSettings
from service.registry.tables import new_id
from worker.outside import metrics
from worker.outside.metrics import serve_metrics
from worker.outside.supervisor import Cancelled, Supervisor
from worker.sandbox.process import ChildOutcome
from worker.sandbox.protocol import ChildError


class Grown:
    """How much each sample of this process has grown since this was made."""

    def __init__(self) -> None:
        self._before = self._now()

    def __call__(self, name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return self._now().get(key, 0.0) - self._before.get(key, 0.0)

    @staticmethod
    def _now() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        samples = [sample for family in REGISTRY.collect() for sample in family.samples]
        return {(one.name, frozenset(one.labels.items())): one.value for one in samples}


def test_the_end_of_a_job_tells_how_long_its_stages_were(registry: Registry) -> None:
    """Each stage is observed once, all attempts together, and the wait for a worker, too; only what is committed."""
    registry.on_ended = metrics.count_ended
    row = tables.Job(
        id=new_id("job"), model_id="mdl_x", dataset_id="ds_x", status="queued", request={}, progress={},
        created_at=tables.now(),
    )  # fmt: skip
    with registry.write() as unit:
        unit.jobs.open(row)
        for status, stage in (("running", "training"), ("queued", ""), ("running", "inspecting"), ("", "training")):
            if status:
                unit.jobs.change_status(row, status)
            if stage:
                unit.jobs.enter_stage(row, stage)
    seconds = (0, 10, 10, 110, 140, 140, 150)  # queued, running, training, queued, running, inspecting, training
    grown = Grown()
    with registry.write() as unit:
        start = unit.now() - timedelta(seconds=200)
        for event, second in zip(unit.events.after(row.id, 0, limit=99), seconds, strict=True):
            event.at = start + timedelta(seconds=second)
    with pytest.raises(RuntimeError), registry.write() as unit:
        unit.jobs.change_status(unit.jobs.get(row.id), "succeeded")
        raise RuntimeError("so that it is rolled back")
    with registry.write() as unit:
        unit.jobs.fail(unit.jobs.get(row.id), {"code": "poisoned", "message": "x"})
    for stage, expected in (("queued", 40), ("inspecting", 10), ("training", 150)):
        assert grown("fedlas_job_stage_seconds_count", stage=stage) == 1
        assert grown("fedlas_job_stage_seconds_sum", stage=stage) == pytest.approx(expected, abs=5)
    assert grown("fedlas_job_failures_total", code="poisoned") == 1
    assert [grown("fedlas_jobs_ended_total", status=status) for status in ("failed", "succeeded")] == [1, 0]


def test_codes_that_children_make_up_are_bounded() -> None:
    """A thousand codes are a few hundred series; the others are counted together."""
    grown = Grown()
    metrics.count_ended([Ended(f"bat_{n}", "failed", f"made_up_{n}", {}) for n in range(1000)])
    (family,) = (one for one in REGISTRY.collect() if one.name == "fedlas_batch_failures")
    assert len({sample.labels["code"] for sample in family.samples}) <= 206
    assert grown("fedlas_batch_failures_total", code="other") >= 800


def test_children_are_counted_by_how_they_end() -> None:
    """An answer, an explained error, a death, a time-out, no protection, and what its supervisor ended it for."""
    grown = Grown()
    ends: dict[str, Callable[[], ChildOutcome]] = {
        "result": lambda: ChildOutcome(result={}),
        "error": lambda: ChildOutcome(error=ChildError(code="empty", message="", user_error=True)),
        "died": lambda: ChildOutcome(died="signal 9"),
        "timeout": lambda: ChildOutcome(died="timeout"),
        "unprotected": lambda: ChildOutcome(unprotected="network"),
        "cancelled": lambda: raising(Cancelled()),
        "lease_lost": lambda: raising(LeaseLost("lease_lost", "x")),
        "failed": lambda: raising(OSError()),
    }
    words: dict[type[Exception], str] = {Cancelled: "cancelled", LeaseLost: "lease_lost"}
    for reason, run in ends.items():
        try:
            metrics.counted_child("predict", run, interruptions=words)
        except (Cancelled, LeaseLost, OSError):
            assert reason in ("cancelled", "lease_lost", "failed")
        assert grown("fedlas_children_ended_total", reason=reason) == 1
    assert grown("fedlas_children_started_total", kind="predict") == len(ends)


def test_work_that_ends_with_its_job_is_no_lost_lease(registry: Registry, tmp_path: Path) -> None:
    """A shard that another worker has taken over is one; one whose batch has failed is not."""
    supervisor, grown = Supervisor(WorkerSettings(data_dir=tmp_path), registry, name="w"), Grown()
    with registry.write() as unit:
        batch = tables.Batch(
            id=new_id("bat"), model_id="mdl_x", dataset_id="ds_x", status="running", options={}, progress={},
            created_at=unit.now(),
        )  # fmt: skip
        unit.batches.add(batch)
        unit.work.open(batch.id)
        unit.pieces.add_all(batch.id, [NewPiece("rows-0", {"first_row": 0, "num_rows": 1})], queue="predict")
        claim = unit.work.claim(unit.pieces.of(batch.id)[0].id, worker="w", lease_seconds=60)
    assert claim is not None
    supervisor.execute(replace(claim, token=claim.token - 1))
    assert grown("fedlas_leases_lost_total") == 1
    with registry.write() as unit:
        unit.batches.change_status(unit.batches.get(batch.id), "failed")
    supervisor.execute(claim)
    assert grown("fedlas_leases_lost_total") == 1


def raising(error: Exception) -> ChildOutcome:
    """Nothing but the error."""
    raise error


def test_metrics_are_served_where_the_settings_say(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nowhere by default; at the port with a first zero of every series; a port that is taken is no reason to end."""
    serve_metrics(WorkerSettings(data_dir=tmp_path))()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        serve_metrics(WorkerSettings(data_dir=tmp_path, worker_metrics_port=port))()
    assert str(port) in caplog.text
    with caplog.at_level("INFO"):
        stop = serve_metrics(WorkerSettings(data_dir=tmp_path, worker_metrics_port=0))
    try:
        with urllib.request.urlopen(caplog.text.rpartition("metrics on ")[2].strip(), timeout=30) as answer:
            told = answer.read().decode()
    finally:
        stop()
    assert 'fedlas_permits_resent_total{queue="plan"} ' in told
    assert 'fedlas_work_released_total{reason="worker_died"} ' in told
    assert "_created" not in told
