"""The engine gathers rows of many requests, is fair to all of them, and keeps no more models open than it may."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.predict.engine.batching import InferenceBatch, ModelQueue
from service.predict.engine.profile import RunLimits
from service.predict.engine.scheduler import Scheduler, SchedulerOptions
from service.registry.artifacts import ArtifactStore
from service.registry.errors import DeadlineExceeded, InvalidRequest, NotFound, Overloaded, Unavailable
from tests.helpers.served import hungry, lookup, scaling
from tests.helpers.staging import stage_bytes

#: The limits of a model whose inspection found that no value of a row decides how much is computed.
QUICK = RunLimits(sizes_follow_shapes=True)


@dataclass
class Bench:
    """An engine whose batches are written down when they are put together (its order) and have run (the machine's)."""

    store: ArtifactStore
    begun: list[InferenceBatch] = field(default_factory=list)
    batches: list[InferenceBatch] = field(default_factory=list)

    def engine(self, *, cache_bytes: int = 10**9, **options: Any) -> Scheduler:
        """An engine over the store."""
        return Scheduler(self.store.held, SchedulerOptions(cache_bytes, **options), on_batch=self.batches.append)

    def kept(self, content: bytes) -> str:
        """Store a file and return its digest."""
        with stage_bytes(self.store, content) as staged:
            return staged.keep()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """An empty store."""
    made, take = Bench(ArtifactStore(tmp_path)), ModelQueue.take

    def noted(queue: ModelQueue) -> InferenceBatch | None:
        batch = take(queue)
        made.begun += [] if batch is None else [batch]
        return batch

    monkeypatch.setattr(ModelQueue, "take", noted)
    return made


def rows(*values: float) -> dict[str, np.ndarray]:
    """Rows (value, 0)."""
    return {"x": np.array([[value, 0.0] for value in values], dtype=np.float32)}


def counted(number: int) -> dict[str, np.ndarray]:
    """Rows (0, 0), (1, 0), …"""
    return {"x": np.stack([np.arange(number), np.zeros(number)], axis=1).astype(np.float32)}


def slow(line: ModelQueue) -> ModelQueue:
    """Have it take every batch for one that belongs into a thread."""
    line.model.fixed = 1.0
    return line


def test_requests_that_come_together_are_one_batch(bench: Bench) -> None:
    """Ten requests of one turn of the loop run once, and each gets what is its own."""

    async def ask() -> list[float]:
        engine = bench.engine()
        line = await engine.models.open(bench.kept(scaling(3)), QUICK)
        found = await asyncio.gather(*(engine.submit(line, rows(value)) for value in range(10)))
        return [float(outputs["logits"][0, 0]) for outputs in found]

    assert asyncio.run(ask()) == [3.0 * value for value in range(10)]
    assert [(batch.rows, len(batch.slices)) for batch in bench.batches] == [(10, 10)]


@pytest.mark.parametrize(("runs", "threads"), [(1, False), (3, True)])
def test_a_large_request_comes_back_in_order(bench: Bench, runs: int, threads: bool) -> None:
    """A thousand rows in batches of 64, also of several at once in threads, are the same rows in the same order."""

    async def ask() -> dict[str, np.ndarray]:
        engine = bench.engine(max_batch_rows=64, runs=runs)
        line = await engine.models.open(bench.kept(scaling(2)), QUICK)
        return await engine.submit(slow(line) if threads else line, counted(1000), outputs=("logits", "features"))

    outputs = asyncio.run(ask())
    assert (outputs["logits"][:, 0] == 2.0 * np.arange(1000)).all()
    assert (outputs["features"] == outputs["logits"]).all()
    assert outputs["index"].tolist() == [0] * 1000
    assert sum(batch.rows for batch in bench.batches) == 1000
    assert max(batch.rows for batch in bench.batches) == 64


def test_a_single_row_waits_for_two_batches_of_a_large_request_at_most(bench: Bench) -> None:
    """A row that comes while ten thousand are worked on is in the next batch that is put together."""

    async def ask() -> int:
        engine = bench.engine(max_batch_rows=64, runs=1)
        line = slow(await engine.models.open(bench.kept(scaling(2)), QUICK))
        large = engine.submit(line, counted(10_000))
        while not bench.batches:
            await asyncio.sleep(0)
        before = len(bench.begun)
        await engine.submit(line, rows(1))
        (number,) = [i for i, batch in enumerate(bench.begun) if any(s.request.rows == 1 for s in batch.slices)]
        await large
        return number - before

    # When the row came one batch may have been running, and one more have been next.
    assert asyncio.run(ask()) <= 2


def test_large_requests_take_turns(bench: Bench) -> None:
    """A small request is in the first batch, large ones fill what is left, one each time, and no room is wasted."""

    async def ask() -> None:
        engine = bench.engine(max_batch_rows=60)
        line = await engine.models.open(bench.kept(scaling(2)), QUICK)
        await asyncio.gather(*(engine.submit(line, counted(number)) for number in (100, 80, 2)))

    asyncio.run(ask())
    found = [[(s.request.rows, s.rows) for s in batch.slices] for batch in bench.batches]
    assert found == [[(2, 2), (100, 58)], [(80, 60)], [(80, 20), (100, 40)], [(100, 2)]]


def test_who_sends_whole_batches_is_answered_in_turn(bench: Bench) -> None:
    """The first of several requests that fill a batch each is answered after the first batch, not after the last."""

    async def ask() -> None:
        engine = bench.engine(max_batch_rows=64)
        line = await engine.models.open(bench.kept(scaling(2)), QUICK)
        await asyncio.gather(*(engine.submit(line, counted(64)) for _ in range(4)))

    asyncio.run(ask())
    assert [len(batch.slices) for batch in bench.batches] == [1, 1, 1, 1]


def test_a_busy_model_leaves_threads_to_others(bench: Bench) -> None:
    """A row for one model is computed although another model's batches are always full."""

    async def ask() -> int:
        engine = bench.engine(max_batch_rows=64, runs=1)
        busy, other = [slow(await engine.models.open(bench.kept(scaling(factor)), QUICK)) for factor in (2, 3)]
        large = engine.submit(busy, counted(10_000))
        while not bench.batches:
            await asyncio.sleep(0)
        before = len(bench.begun)
        await engine.submit(other, rows(1))
        large.cancel()
        (number,) = [i for i, batch in enumerate(bench.begun) if batch.model is other.model]
        return number - before

    assert asyncio.run(ask()) <= 5


def test_rows_that_cannot_be_computed_harm_nobody_else(bench: Bench) -> None:
    """A token beyond the vocabulary is its sender's error; who was in the same batch is answered."""

    async def ask() -> list[Any]:
        engine = bench.engine()
        line = await engine.models.open(bench.kept(lookup(np.arange(6, dtype=np.float32).reshape(3, 2))), QUICK)
        asked = [engine.submit(line, {"x": np.array([[token]], dtype=np.int64)}) for token in (2, 99, 1)]
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert first["logits"].tolist() == [[4.0, 5.0]]
    assert third["logits"].tolist() == [[2.0, 3.0]]
    assert isinstance(second, InvalidRequest)
    assert (second.code, second.field) == ("inputs_refused", "inputs")
    assert [len(batch.slices) for batch in bench.batches] == [3]


def test_refused_rows_cost_few_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of 64 that cannot be computed is found by halving, not by running each of them alone."""
    runs = 0

    async def ask() -> list[Any]:
        nonlocal runs
        line = await bench.engine().models.open(bench.kept(lookup(np.arange(6, dtype=np.float32).reshape(3, 2))), QUICK)
        engine, run = bench.engine(), line.model.run

        def counting(*args: Any) -> Any:
            nonlocal runs
            runs += 1
            return run(*args)

        monkeypatch.setattr(line.model, "run", counting)
        tokens = [99 if number == 40 else number % 3 for number in range(64)]
        asked = [engine.submit(line, {"x": np.array([[token]], dtype=np.int64)}) for token in tokens]
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(ask())
    assert [number for number, one in enumerate(found) if isinstance(one, InvalidRequest)] == [40]
    assert [one["logits"][0, 0] for one in found[:6]] == [0, 2, 4, 0, 2, 4]
    assert runs <= 1 + 2 * 6


def test_a_lack_of_memory_is_nobody_s_mistake(bench: Bench) -> None:
    """A failed allocation in ONNX Runtime is `out_of_memory`, and not something wrong with the rows."""

    async def ask() -> None:
        engine = bench.engine()
        line = await engine.models.open(bench.kept(hungry()), QUICK)
        assert (await engine.submit(line, rows(1)))["logits"].tolist() == [[1.0, 0.0]]
        with pytest.raises(Unavailable) as caught:
            await engine.submit(line, rows(1e13))
        assert caught.value.code == "out_of_memory"

    asyncio.run(ask())


def test_a_file_that_cannot_be_opened(bench: Bench) -> None:
    """A file that cannot be opened is unavailable, not our defect or the client's; the next open is tried anew."""

    async def ask() -> None:
        engine = bench.engine()
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                await engine.models.open(bench.kept(b"no onnx"), QUICK)
            assert caught.value.code == "model_cannot_be_opened"
        assert engine.models._opening_bytes == 0

    asyncio.run(ask())


def test_what_cannot_be_handed_out_stops_nothing(bench: Bench) -> None:
    """A defect while results are handed out reaches their requests, and the next batch is run."""

    def broken(_: InferenceBatch) -> None:
        raise MemoryError

    async def ask() -> None:
        engine = Scheduler(bench.store.held, SchedulerOptions(10**9), on_batch=broken)
        line = await engine.models.open(bench.kept(scaling(2)), QUICK)
        for _ in range(2):
            outputs = await engine.submit(line, rows(3))
            assert outputs["logits"][0, 0] == 6

    asyncio.run(ask())


def test_rows_of_different_shapes_are_different_batches(bench: Bench) -> None:
    """Where a row's length is open, only rows of one length run together; all are answered."""

    async def ask() -> list[tuple[int, ...]]:
        engine = bench.engine()
        line = await engine.models.open(bench.kept(scaling(1, columns="L")), QUICK)
        asked = [engine.submit(line, {"x": np.ones((2, length), dtype=np.float32)}) for length in (3, 5, 3)]
        return [outputs["logits"].shape for outputs in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [(2, 3), (2, 5), (2, 3)]
    assert sorted(batch.rows for batch in bench.batches) == [2, 4]


def test_numbers_that_overflow_are_told_of_only_to_their_sender(bench: Bench) -> None:
    """`finite` says which rows overflow, infinities of either sign included, and is missing for those that do not."""

    async def ask() -> list[dict[str, np.ndarray]]:
        engine = bench.engine()
        line = await engine.models.open(bench.kept(scaling(1e30)), QUICK)
        asked = [engine.submit(line, rows(*values)) for values in ((1.0,), (1.0, 1e30), (-1e30,))]
        return await asyncio.gather(*asked)

    found = asyncio.run(ask())
    # Both were one batch, so each has the column.
    assert [outputs["finite"].tolist() for outputs in found] == [[True], [True, False], [False]]


def test_too_many_waiting_rows_are_refused(bench: Bench) -> None:
    """Beyond the limit a request is answered with when to come back; a large one alone is not beyond it."""

    async def ask() -> Overloaded:
        engine = bench.engine(max_queued_rows=100)
        line = slow(await engine.models.open(bench.kept(scaling(1)), QUICK))
        waiting = engine.submit(line, counted(1000))
        with pytest.raises(Overloaded) as caught:
            engine.submit(line, rows(1))
        await waiting
        await engine.submit(line, rows(1))
        return caught.value

    error = asyncio.run(ask())
    assert error.retry_after >= 1
    assert "100" in error.message


def test_rows_that_nobody_waits_for_are_not_run(bench: Bench) -> None:
    """A request that was given up while it waited leaves the queue without a trace."""

    async def ask() -> int:
        engine = bench.engine(max_batch_rows=10)
        line = await engine.models.open(bench.kept(scaling(1)), QUICK)
        given_up = engine.submit(line, counted(500))
        other = engine.submit(line, rows(7))
        given_up.set_exception(DeadlineExceeded("deadline_exceeded", "too late"))
        outputs = await other
        assert outputs["logits"].tolist() == [[7.0, 0.0]]
        given_up.exception()
        await asyncio.sleep(0.01)
        return engine.queued_rows

    assert asyncio.run(ask()) == 0
    assert sum(batch.rows for batch in bench.batches) == 1


def test_batches_are_no_longer_than_a_moment(bench: Bench) -> None:
    """A model that takes 5 ms a row is given five rows at a time, whatever the limit of rows."""

    async def ask() -> int:
        line = await bench.engine(max_batch_rows=256).models.open(bench.kept(scaling(1)), QUICK)
        line.model.per_row = 0.005
        return line.capacity

    assert asyncio.run(ask()) == 5


def _ran(engine: Scheduler, digest: str) -> Callable[[], Coroutine[Any, Any, float]]:
    async def run() -> float:
        outputs = await engine.submit(await engine.models.open(digest, QUICK), rows(1))
        return float(outputs["logits"][0, 0])

    return run


def test_least_recently_used_sessions_go_first(bench: Bench) -> None:
    """Within the limit sessions stay open; beyond it the one that was not used for longest is closed."""
    digests = [bench.kept(scaling(factor)) for factor in (1, 2, 3)]
    size = bench.store.path(digests[0]).stat().st_size

    async def ask() -> None:
        engine = bench.engine(cache_bytes=2 * size)
        assert [await _ran(engine, digest)() for digest in (*digests[:2], digests[0])] == [1, 2, 1]
        older, newer = [
            weakref.ref((await engine.models.open(digest, QUICK)).model) for digest in (digests[1], digests[0])
        ]
        assert (len(engine.models), engine.models.bytes) == (2, 2 * size)
        assert await _ran(engine, digests[2])() == 3
        bench.begun.clear()
        bench.batches.clear()
        gc.collect()
        assert newer() is not None
        assert older() is None
        assert (len(engine.models), engine.models.bytes) == (2, 2 * size)
        assert await _ran(engine, digests[1])() == 2, "a session that was closed is opened again"

    asyncio.run(ask())


def test_many_clients_and_a_cache_too_small(bench: Bench) -> None:
    """Every answer is that of its own model, however often sessions are closed and opened meanwhile."""
    digests = {float(factor): bench.kept(scaling(factor)) for factor in range(1, 6)}

    async def ask() -> list[float]:
        engine = bench.engine(cache_bytes=1, runs=2)
        return list(await asyncio.gather(*(_ran(engine, digests[factor])() for factor in list(digests) * 10)))

    assert asyncio.run(ask()) == list(digests) * 10


def test_a_file_is_opened_once_for_all_who_ask(bench: Bench) -> None:
    """Requests that meet while a model is being opened share it; a failure is not remembered."""
    digest = bench.kept(scaling(1))

    async def ask() -> None:
        engine = bench.engine()
        first, second = await asyncio.gather(engine.models.open(digest, QUICK), engine.models.open(digest, QUICK))
        assert first is second
        for _ in range(2):
            with pytest.raises(NotFound):
                await engine.models.open("0" * 64)

    asyncio.run(ask())
