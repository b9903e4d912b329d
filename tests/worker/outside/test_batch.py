"""Shards of a batch over a real registry: planned, claimed in turn, gathered, lost and repeated, with faults by row."""

from __future__ import annotations

import hashlib
import itertools
import re

import pytest

from fedlas.contract.predictions import BatchManifest
from fedlas.contract.profiles import ImagePreprocessing, ModelProfile
from service.predict.formats import result_tables
from service.registry.errors import LeaseLost
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings
from tests.helpers.documents import MODEL_PROFILE
from tests.helpers.sharded import ROWS, ShardedBatches
from worker.documents import RowRange
from worker.outside.kinds import batch
from worker.outside.kinds.batch import GROUP_ROWS, planned_shards
from worker.outside.supervisor import Supervisor


@pytest.fixture
def batches(registry: Registry, settings: ServiceSettings) -> ShardedBatches:
    """An empty registry to order batches in."""
    place = settings.model_dump(include={"data_dir", "database_url", "broker_url", "artifacts"})
    return ShardedBatches.over(registry, **place)


def manifest(batches: ShardedBatches, batch_id: str) -> tuple[str, BatchManifest]:
    """The manifest of a batch that has succeeded, and its digest."""
    row = batches.batch(batch_id)
    assert (row.status, row.results_sha256) == ("succeeded", None), row.error
    assert row.manifest_sha256 is not None
    content = batches.registry.artifacts.path(row.manifest_sha256).read_bytes()
    return row.manifest_sha256, BatchManifest.model_validate_json(content)


def test_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards tile the rows, are of equal size and of whole groups, and take the seconds that were asked for, or so."""
    assert result_tables.GROUP_ROWS == GROUP_ROWS
    profile = ModelProfile.model_validate(MODEL_PROFILE)
    measured = {"rows": 256, "length": 1, "seconds": 2.56, "values": "zeros"}
    slow = ModelProfile.model_validate({**MODEL_PROFILE, "cost": {"sizes": "shapes", "measured": measured}})
    images = profile.model_copy(update={"preprocessing": ImagePreprocessing()})
    assert planned_shards(3_300_000, profile, seconds=5) == []
    assert len(planned_shards(3_400_000, profile, seconds=5)) == 2
    assert planned_shards(999, slow, seconds=5) == planned_shards(1, slow, seconds=1e-9) == []
    assert len(planned_shards(2_500, images, seconds=5)) == 2
    for count, of, seconds in ((10_000_000, profile, 5), (1_000_000, slow, 5), (7, slow, 1e-9), (10**9, slow, 5)):
        pieces = planned_shards(count, of, seconds=seconds)
        rows = [RowRange.read(piece.order).rows for piece in pieces]
        assert (rows[0].start, rows[-1].stop) == (0, count)
        assert all(one.stop == other.start for one, other in itertools.pairwise(rows))
        assert {len(one) for one in rows[:-1]} == {len(rows[0])} >= {max(len(rows[0]), len(rows[-1]))}
        assert len(rows[0]) < GROUP_ROWS or len(rows[0]) % GROUP_ROWS == 0
        assert 1 < len(pieces) <= batch._MAX_SHARDS
    assert [round(piece.work_seconds) for piece in planned_shards(1_000, slow, seconds=5)] == [5, 5]


def test_a_batch_in_shards(batches: ShardedBatches) -> None:
    """Claimed in turn they leave parts that the manifest lists; in column mode the errors of all are counted."""
    batch_id = batches.order((0, 49, 50, 120, 199), errors="column")
    assert batches.run_all() == [batch_id, *(piece.id for piece in batches.shards(batch_id)), batch_id]
    digest, found = manifest(batches, batch_id)
    row = batches.batch(batch_id)
    assert (row.num_rows, row.num_errors, row.progress["fraction"]) == (ROWS, 5, 1.0)
    assert (found.num_rows, found.num_errors, found.batch_id) == (ROWS, 5, batch_id)
    assert [(part.first_row, part.num_rows) for part in found.parts] == [(0, 50), (50, 50), (100, 50), (150, 50)]
    for part in found.parts:
        content = batches.registry.artifacts.path(part.sha256).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (part.sha256, part.bytes)
    small = batches.order(rows=90)
    assert batches.run_all() == [small]
    assert batches.batch(small).results_sha256 is not None
    with batches.registry.read() as unit:
        assert unit.work.of(batch_id).attempts == 1
        assert unit.batches.referenced([digest, *(part.sha256 for part in found.parts)]) == {
            digest, *(part.sha256 for part in found.parts)
        }  # fmt: skip
    with batches.registry.write() as unit:
        gone = unit.batches.delete(batch_id)
    assert {digest, *(part.sha256 for part in found.parts)} == {*gone}


def test_the_first_bad_row_of_the_file_decides(batches: ShardedBatches) -> None:
    """Whichever shard fails first: those before it are done, those behind it are not, and none is afterwards."""
    batch_id = batches.order((60, 130, 190))
    batches.run(batches.taken())
    first, second, third, fourth = batches.shards(batch_id)
    behind = batches.taken(fourth.id)
    failing = batches.taken(third.id)
    behind.begin()
    batches.run(failing)
    assert [piece.status for piece in batches.shards(batch_id)] == ["waiting", "waiting", "failed", "failed"]
    with pytest.raises(LeaseLost), batches.registry.write() as unit:
        unit.work.renew(behind.claim, lease_seconds=60)
    assert batches.run_all() == [first.id, second.id, batch_id]
    row = batches.batch(batch_id)
    assert (row.status, row.error and row.error["code"]) == ("failed", "inputs_refused")
    assert str((row.error or {})["message"]).startswith("row 60 (counted from 0)")
    assert batches.shards(batch_id) == []


def test_a_lost_worker_costs_one_shard(batches: ShardedBatches) -> None:
    """Whoever was silent writes nothing, whoever repeats the shard leaves the same bytes, in shards and in the end."""
    first = batches.order((3,), errors="column")
    batches.run_all()
    expected = manifest(batches, first)[1].parts
    batch_id = batches.order((3,), errors="column")
    batches.run(batches.taken())
    silent = batches.taken(lease=0)
    assert silent.begin() is not None
    batches.run(batches.taken(silent.record_id))
    with pytest.raises(LeaseLost):
        batches.run(silent)
    assert batches.claimed(silent.record_id) is None
    reached = [batches.batch(batch_id).progress["fraction"]]
    for _ in range(3):
        work = batches.taken()
        assert work.begin() is not None
        for share in (0.5, 0.2):  # another attempt may be behind the one before
            work.note({"progress": {"fraction": share}})
            with batches.registry.write() as unit:
                work.heartbeat(unit)
            reached.append(batches.batch(batch_id).progress["fraction"])
        batches.run(work)
        reached.append(batches.batch(batch_id).progress["fraction"])
    assert reached == [0.25, 0.375, 0.375, 0.5, 0.625, 0.625, 0.75, 0.875, 0.875, 1.0]
    dying = batches.taken(batch_id, lease=0)  # in the fan-in
    with batches.registry.write() as unit:
        unit.work.release_expired()
    batches.run_all()
    with pytest.raises(LeaseLost):
        batches.run(dying)
    assert manifest(batches, batch_id)[1].parts == expected


def test_one_child_does_one_shard_after_the_other(batches: ShardedBatches, caplog: pytest.LogCaptureFixture) -> None:
    """A real child goes on while it is the batch's turn, shows each claim, leaves others' rows, and logs each shard."""
    caplog.set_level("INFO", "fedlas.worker")
    batch_id = batches.order((3, 50), errors="column")
    batches.run(batches.taken())
    pieces = batches.shards(batch_id)
    supervisor, shown = Supervisor(batches.settings, batches.registry, name="w"), []
    supervisor.execute(batches.taken().claim, show=shown.append)
    assert [claim.record_id for claim in shown] == [piece.id for piece in pieces[1:]]
    assert batches.run_all() == [batch_id]
    ends = [f"{piece.id} of {batch_id} {what}" for piece in pieces for what in ("started (attempt 1)", "done")]
    expected = [f"{batch_id} is split into {len(pieces)} shards", *ends, f"{batch_id} done: 200 rows in 4 parts"]
    assert [re.sub(r" in \d+\.\d s$", "", record.getMessage()) for record in caplog.records] == expected
    again = batches.order((3, 50), errors="column")
    batches.run_all()
    assert manifest(batches, batch_id)[1].parts == manifest(batches, again)[1].parts


def test_the_next_customer_waits_for_one_shard(batches: ShardedBatches) -> None:
    """Beside a batch of a thousand shards another one is done next, as soon as a worker has ended what it does."""
    large = batches.order(rows=50_000)
    batches.run(batches.taken())
    assert len(batches.shards(large)) > 1_000
    running = batches.taken()
    small = batches.order(rows=10)
    batches.run(running)
    work = batches.taken()
    assert work.record_id == small
    batches.run(work)
    assert batches.batch(small).status == "succeeded"
    assert batches.taken().record_id == batches.shards(large)[1].id


def test_a_batch_that_ends_ends_its_shards(batches: ShardedBatches) -> None:
    """A message that names a shard of a batch that has failed, or is deleted, finds nothing to claim."""
    batch_id = batches.order((0,))
    batches.run(batches.taken())
    pieces = batches.shards(batch_id)
    assert batches.run_all() == [pieces[0].id, batch_id]
    for piece in pieces:
        assert batches.claimed(piece.id) is None
    with batches.registry.write() as unit:
        unit.batches.delete(batch_id)
    assert batches.claimed(pieces[0].id) is None
