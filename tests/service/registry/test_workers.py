"""What keeps open records from going on, in sentences: that nobody takes them, or that who has them is silent."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from service.registry import tables
from service.registry.presenters import batch_record, dataset_record, job_record
from service.registry.registry import Registry
from service.registry.repositories.workers import SILENT_S
from service.registry.tables import new_id, now
from tests.helpers.work import add_dataset, add_job, add_worker


def obstacle(registry: Registry, queue: str, holder: str | None = None) -> str | None:
    """What keeps work of this queue."""
    with registry.read() as unit:
        return unit.workers.obstacle(queue, holder)


def waits_of(registry: Registry, *job_ids: str) -> list[str | None]:
    """What the records of these jobs say."""
    with registry.read() as unit:
        rows = [(unit.jobs.get(job_id), unit.work.of(job_id)) for job_id in job_ids]
        return [job_record(unit, row, work).waiting_for for row, work in rows]


def test_without_a_worker_it_is_said_which_is_needed(registry: Registry) -> None:
    """By what it would do, for each queue; a worker of another queue is none."""
    add_worker(registry, "w", "inspect", "calibrate.cpu")
    assert obstacle(registry, "inspect") is None
    assert obstacle(registry, "predict") == "no worker takes this; there is none that predicts batches"
    assert obstacle(registry, "calibrate.gpu") == "no worker takes this; there is none with a GPU"


@pytest.mark.parametrize(("silent", "told"), [(47.0, "40 s"), (299.0, "290 s"), (600.0, "10 min")])
def test_silent_workers_are_counted(registry: Registry, silent: float, told: str) -> None:
    """Of all that are known, those that would take it, and how long the last of them has been silent."""
    add_worker(registry, "lives", "inspect")
    add_worker(registry, "still", "calibrate.cpu", silent_seconds=silent)
    assert obstacle(registry, "calibrate.cpu") == f"no worker takes this; 1 of 2 has not been heard of for {told}"
    add_worker(registry, "longer", "calibrate.cpu", silent_seconds=silent + 3600)
    assert obstacle(registry, "calibrate.cpu") == f"no worker takes this; 2 of 3 have not been heard of for {told}"
    add_worker(registry, "well", "calibrate.cpu", silent_seconds=SILENT_S - 5)
    assert obstacle(registry, "calibrate.cpu") is None, "it waits for its turn"


def test_a_silent_holder_is_told_apart(registry: Registry) -> None:
    """Whether another worker goes on with what it has; a holder that lives, or that nobody knows, is no trouble."""
    add_worker(registry, "holder", "predict", silent_seconds=45)
    silent = "the worker that runs this has not been heard of for 40 s"
    assert obstacle(registry, "predict", "holder") == f"{silent}; no other one takes it"
    add_worker(registry, "other", "predict")
    assert obstacle(registry, "predict", "holder") == f"{silent}; another one goes on with it when its lease ends"
    assert obstacle(registry, "predict", "other") is None
    assert obstacle(registry, "predict", "forgotten") is None


def test_records_say_it_while_they_are_open(registry: Registry) -> None:
    """A job by its queue and its holder, one whose files are inspected by these; a final one waits for nothing."""
    add_worker(registry, "still", "calibrate.cpu", silent_seconds=45)
    waiting, held, inspected, spread = (add_job(registry) for _ in range(4))
    with registry.write() as unit:
        assert unit.work.claim(held, worker="still", lease_seconds=60)
        unit.work.of(inspected).state = unit.work.of(spread).state = "blocked"
        unit.jobs.get(spread).status = unit.jobs.get(held).status = "running"
    nobody = "no worker takes this; 1 of 1 has not been heard of for 40 s"
    assert waits_of(registry, waiting, held, inspected, spread) == [
        nobody,
        "the worker that runs this has not been heard of for 40 s; no other one takes it",
        "no worker takes this; there is none that inspects uploads",
        nobody,
    ]
    with registry.write() as unit:
        unit.jobs.get(waiting).status = "cancelled"
    assert waits_of(registry, waiting) == [None]


def test_uploads_and_batches_say_it(registry: Registry) -> None:
    """A dataset waits for who inspects it, a batch for who predicts."""
    dataset_id = add_dataset(registry)
    batch = tables.Batch(
        id=new_id("bat"), status="queued", created_at=now(), model_id="m", dataset_id="d", options={}, progress={}
    )
    with registry.write() as unit:
        unit.batches.add(batch)
        ordered = batch_record(unit, batch, unit.work.open(batch.id))
        uploaded = dataset_record(unit, unit.datasets.get(dataset_id))
    assert ordered.waiting_for == "no worker takes this; there is none that predicts batches"
    assert uploaded.waiting_for == "no worker takes this; there is none that inspects uploads"


def test_a_page_of_open_records_asks_once_for_workers(registry: Registry) -> None:
    """However many records it has, and not at all where all are final."""
    open_ones = [add_job(registry) for _ in range(5)]
    final = [add_job(registry, status="succeeded") for _ in range(5)]
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(registry._engine, "before_cursor_execute", note)
    for job_ids, times in ((open_ones, 1), (final, 0)):
        asked.clear()
        waits_of(registry, *job_ids)
        assert sum("FROM workers" in statement for statement in asked) == times
