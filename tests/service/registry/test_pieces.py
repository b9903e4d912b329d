"""Pieces of batches: turns with others, the fan-in that the last one opens, and what is left in the end."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from service.registry import tables
from service.registry.errors import WorkGone
from service.registry.registry import Registry, UnitOfWork
from service.registry.repositories import Claim, NewPiece
from service.registry.tables import new_id
from tests.helpers.staging import stage_bytes
from tests.helpers.work import state_of


def opened(registry: Registry, prefix: str = "bat") -> str:
    """Open the work of a new record."""
    record_id = new_id(prefix)
    with registry.write() as unit:
        unit.work.open(record_id)
    return record_id


def claimed(registry: Registry, record_id: str) -> Claim:
    """Claim this record, whoever's turn it is."""
    with registry.write() as unit:
        claim = unit.work.claim(record_id, worker="w", lease_seconds=60)
    assert claim is not None
    return claim


def take(registry: Registry, queue: str = "predict") -> Claim | None:
    """Claim whose turn it is."""
    with registry.write() as unit:
        return unit.work.claim_next(queue, worker="w", lease_seconds=60)


def flow_taken(registry: Registry) -> str:
    """Claim and finish whose turn it is; returns its flow."""
    claim = take(registry)
    assert claim is not None
    with registry.write() as unit:
        unit.work.finish(claim)
        return unit.work.of(claim.record_id).flow


def add(registry: Registry, parent_id: str, *names: str, queue: str = "predict") -> Sequence[tables.Piece]:
    """Add pieces of these names, each planned to take as many seconds as its place says."""
    with registry.write() as unit:
        pieces = [NewPiece(name, {}, float(place)) for place, name in enumerate(names, 1)]
        unit.pieces.add_all(parent_id, pieces, queue=queue)
        return unit.pieces.of(parent_id)


def finish(registry: Registry, claim: Claim) -> None:
    """The piece is done."""
    with registry.write() as unit:
        unit.pieces.lock_parent(claim.record_id)
        unit.work.finish(claim)
        unit.pieces.finish(claim.record_id, sha256=None)


def test_flows_take_turns(registry: Registry) -> None:
    """Beside a batch of 16 pieces another of 3 gets every second place, and a new customer's batch the next."""
    large, small = opened(registry), opened(registry)
    claimed(registry, large)
    add(registry, large, *(f"l{i}" for i in range(16)))
    assert flow_taken(registry) == small
    assert take(registry) is not None
    late = opened(registry)
    claimed(registry, late)
    add(registry, late, "a", "b", "c")
    customer = opened(registry)
    order = [flow_taken(registry) for _ in range(8)]
    assert order[0] == customer
    assert order[1:7] in ([late, large] * 3, [large, late] * 3)


def test_newcomers_do_not_starve_a_flow(registry: Registry) -> None:
    """While a new batch comes with every claim, and one waits always, the pieces of an older one come all the same."""
    large = opened(registry)
    claimed(registry, large)
    add(registry, large, *(f"l{i}" for i in range(4)))
    taken = []
    opened(registry)
    while taken.count(large) < 4 and len(taken) < 4 * 3 * 8:
        claim = take(registry)
        assert claim is not None
        opened(registry)
        with registry.write() as unit:
            taken.append(unit.work.of(claim.record_id).flow)
            unit.work.finish(claim)
    assert taken.count(large) == 4


def test_the_last_piece_opens_the_fan_in(registry: Registry) -> None:
    """A suspended parent is opened by its last piece, with a permit; one that suspends too late opens itself."""
    batch = opened(registry)
    parent = claimed(registry, batch)
    add(registry, batch, "a", "b")
    first, second = take(registry), take(registry)
    assert first is not None
    assert second is not None
    with registry.write() as unit:
        unit.pieces.suspend_parent(parent)
        assert unit.after_commit.permits == []
    finish(registry, first)
    assert state_of(registry, batch) == "blocked"
    permits: list[str] = []
    registry.notify = lambda told: permits.extend(permit.record_id for permit in told)
    finish(registry, second)
    assert (state_of(registry, batch), permits) == ("waiting", [batch])
    parent = claimed(registry, batch)
    assert parent.attempts == 1, "to wait for pieces is no attempt"
    with registry.write() as unit:
        unit.pieces.suspend_parent(parent)
    assert state_of(registry, batch) == "waiting"


def test_ends_and_suspension_at_once(registry: Registry) -> None:
    """However pieces that end and a parent that suspends meet, the parent waits to be claimed in the end."""
    for _ in range(20):
        batch = opened(registry)
        parent = claimed(registry, batch)
        pieces = [claimed(registry, piece.id) for piece in add(registry, batch, "a", "b", "c")]

        def suspend(claim: Claim = parent) -> None:
            with registry.write() as unit:
                unit.pieces.suspend_parent(claim)

        ends = [partial(finish, registry, claim) for claim in pieces]
        ends.insert(1, suspend)
        with ThreadPoolExecutor(len(ends)) as pool:
            list(pool.map(lambda end: end(), ends))
        assert state_of(registry, batch) == "waiting"


def test_progress_is_weighed_by_planned_seconds(registry: Registry) -> None:
    """Progress over 1 + 2 + 3 planned seconds: one piece done, half of the last; a late report does not lower it."""
    batch = opened(registry)
    a, _, c = add(registry, batch, "a", "b", "c")
    finish(registry, claimed(registry, a.id))
    with registry.write() as unit:
        unit.pieces.reach(c.id, 0.5)
        unit.pieces.reach(c.id, 0.2)
        assert unit.pieces.progress(batch) == pytest.approx((1 + 1.5) / 6)
        assert unit.pieces.progress("bat_none") == 1.0


def run_batch(unit: UnitOfWork) -> tables.Batch:
    """A batch that runs."""
    row = tables.Batch(
        id=new_id("bat"), model_id="mdl_x", dataset_id="ds_x", status="running", options={}, progress={},
        created_at=unit.now(),
    )  # fmt: skip
    unit.batches.add(row)
    unit.work.open(row.id)
    return row


@pytest.mark.parametrize("end", ["succeeded", "failed"])
def test_an_ended_parent_ends_its_pieces(registry: Registry, end: str) -> None:
    """Holders of its pieces have lost their leases; a batch with results keeps their files until it is deleted."""
    with registry.write() as unit:
        batch = run_batch(unit).id
    done, held = add(registry, batch, "a", "b")
    with stage_bytes(registry.artifacts, b"part") as staged, registry.write() as unit:
        digest = staged.keep()
        unit.pieces.finish(done.id, sha256=digest)
    holder = claimed(registry, held.id)
    with registry.write() as unit:
        unit.batches.change_status(unit.batches.get(batch), end)
    with pytest.raises(WorkGone), registry.write() as unit:
        unit.work.renew(holder, lease_seconds=60)
    with registry.read() as unit:
        assert unit.batches.is_referenced(digest) == (end == "succeeded")
    with registry.write() as unit:
        assert unit.batches.delete(batch) == ([digest] if end == "succeeded" else [])
        assert unit.pieces.of(batch) == []
