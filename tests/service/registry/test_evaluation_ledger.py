"""The ledger of looks at test rows: what counts, what is given back, and what outlives the dataset."""

from __future__ import annotations

from service.registry.registry import Registry
from service.registry.tables import new_id

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
    first, *others = (new_id("job") for _ in range(3))
    assert [take(registry, FILE, job) for job in (first, *others)] == [0, 1, 2]
    assert [take(registry, FILE, first) for _ in range(3)] == [0, 0, 0], "a job that begins again keeps its number"
    assert take(registry, FILE, new_id("job")) == 3
    assert take(registry, OTHER, new_id("job")) == 0


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
