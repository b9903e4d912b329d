"""The ledger of looks at test rows: what counts, what is given back, and what outlives the dataset."""

from __future__ import annotations

import pytest

from service.registry import tables
from service.registry.registry import Registry
from service.registry.tables import new_id, now

FILE, OTHER = "a" * 64, "b" * 64


def take(registry: Registry, digest: str, job_id: str) -> int:
    """Take a look in a transaction of its own."""
    with registry.write() as unit:
        return unit.ledger.enter(digest, job_id)


def give_back(registry: Registry, job_id: str) -> None:
    """Give a look back in a transaction of its own."""
    with registry.write() as unit:
        unit.ledger.withdraw(job_id)


def test_looks_are_counted_by_file(registry: Registry) -> None:
    """Each job receives the number of earlier looks at the same file's test rows; another file has its own ledger."""
    jobs = [new_id("job") for _ in range(3)]
    assert [take(registry, FILE, job) for job in jobs] == [0, 1, 2]
    assert take(registry, OTHER, new_id("job")) == 0


def test_a_job_that_begins_again_keeps_its_number(registry: Registry) -> None:
    """Taking is idempotent per job, also when others have looked meanwhile."""
    first, second = new_id("job"), new_id("job")
    assert (take(registry, FILE, first), take(registry, FILE, second)) == (0, 1)
    assert [take(registry, FILE, first) for _ in range(3)] == [0, 0, 0]
    assert take(registry, FILE, new_id("job")) == 2


def test_numbers_below_a_taken_one_are_not_used_again(registry: Registry) -> None:
    """A returned look lowers no other number: the highest look still held decides, not the count."""
    first, second = new_id("job"), new_id("job")
    take(registry, FILE, first)
    take(registry, FILE, second)
    give_back(registry, first)
    assert take(registry, FILE, new_id("job")) == 2
    assert take(registry, FILE, first) == 3, "begun again after it was given back, it is a new look"


def test_a_look_that_showed_nothing_does_not_count(registry: Registry) -> None:
    """After the only look is given back the ledger is as if it had never been taken; giving back twice is harmless."""
    job = new_id("job")
    take(registry, FILE, job)
    give_back(registry, job)
    give_back(registry, job)
    assert take(registry, FILE, new_id("job")) == 0


@pytest.mark.parametrize(("status", "before"), [("failed", 0), ("cancelled", 0), ("succeeded", 1), ("running", 1)])
def test_jobs_without_a_result_give_back(registry: Registry, status: str, before: int) -> None:
    """A job that fails or is cancelled gives its look back in the same transaction; one that succeeds does not."""
    job = tables.Job(
        id=new_id("job"), model_id="mdl_x", dataset_id="ds_x", status="queued", request={}, progress={}, history=[],
        created_at=now(),
    )  # fmt: skip
    with registry.write() as unit:
        unit.jobs.add(job)
        unit.ledger.enter(FILE, job.id)
    with registry.write() as unit:
        unit.jobs.change_status(unit.jobs.get(job.id), status)
    assert take(registry, FILE, new_id("job")) == before
