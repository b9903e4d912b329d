"""A batch that takes long costs others little: it frees its slot, and is ended when no request waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.predict.engine.batching import InferenceBatch, ModelQueue
from service.predict.engine.executor import MAX_GRACE_S
from service.predict.engine.profile import Outputs, RunLimits
from service.predict.engine.scheduler import Scheduler, SchedulerOptions
from service.predict.engine.session import OpenModel
from service.registry.artifacts import ArtifactStore
from service.registry.errors import DeadlineExceeded, InvalidRequest
from tests.helpers.served import scaling, toiling
from tests.helpers.staging import stage_bytes

QUICK = RunLimits(sizes_follow_shapes=True)
#: The side of matrices of which a product takes some 10 to 50 ms.
_SIDE = 1000


class Bench:
    """A store of files made by hand, and engines over it whose batches are written down."""

    def __init__(self, folder: Path) -> None:
        self._store = ArtifactStore(folder)
        self.batches: list[InferenceBatch] = []

    def engine(
        self, on_stuck: Callable[[str], None] | None = None, *, longest_grace: float = MAX_GRACE_S, **limits: int
    ) -> Scheduler:
        options, on_batch = SchedulerOptions(10**9, **limits), self.batches.append
        return Scheduler(self._store.held, options, on_batch=on_batch, on_stuck=on_stuck, longest_grace=longest_grace)

    def kept(self, content: bytes) -> str:
        with stage_bytes(self._store, content) as staged:
            return staged.keep()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An empty store."""
    return Bench(tmp_path)


def row(value: float) -> dict[str, np.ndarray]:
    """One row (value, 0)."""
    return {"x": np.array([[value, 0.0]], dtype=np.float32)}


def until_then(engine: Scheduler, line: ModelQueue, value: float, *, seconds: float) -> asyncio.Future[Outputs]:
    """Ask, and give up after so long, as a request does whose deadline comes."""
    loop = asyncio.get_running_loop()
    future = engine.submit(line, row(value), until=loop.time() + seconds)
    loop.call_later(seconds, lambda: future.done() or future.set_exception(DeadlineExceeded("late", "late")))
    return future


def test_a_size_that_depends_on_a_value_never_holds_the_event_loop(bench: Bench) -> None:
    """Rows of zeros are quick, another row is not: it is run in a thread, and ended before its next node in time."""

    async def ask() -> None:
        engine = bench.engine()
        line = await engine.models.open(bench.kept(toiling(300)))
        assert line.model.cost(1) < 0.1, "warming up tells nothing"
        with pytest.raises(DeadlineExceeded):
            await until_then(engine, line, _SIDE, seconds=0.2)
        assert bench.batches == [], "on the event loop the run would have ended first"
        while not bench.batches:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(ask(), 120))
    (cut_off,) = bench.batches[0].results
    assert isinstance(cut_off, InvalidRequest), "of hundreds of products only those until the deadline are computed"
    assert "terminate" in str(cut_off)


def test_a_run_that_cannot_be_ended_is_told_of_after_its_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file whose run goes on although it was asked to end is named, not before its client's time is up."""
    stuck: list[str] = []
    over = threading.Event()
    run = OpenModel.run

    def endless(model: OpenModel, *given: Any) -> Any:
        over.wait()  # a product of matrices long enough on any machine would be endless on a busy one
        return run(model, *given)

    async def ask() -> None:
        engine = bench.engine(on_stuck=stuck.append, longest_grace=0.1)
        line = await engine.models.open(bench.kept(toiling(1)))
        monkeypatch.setattr(OpenModel, "run", endless)
        with pytest.raises(DeadlineExceeded):
            await until_then(engine, line, 1, seconds=0.2)
        assert stuck == []
        while not stuck:
            await asyncio.sleep(0.01)
        assert stuck[0] == line.digest
        over.set()
        while not bench.batches:
            await asyncio.sleep(0.01)

    try:
        asyncio.run(asyncio.wait_for(ask(), 60))
    finally:
        over.set()


def test_who_leaves_early_ends_no_process(bench: Bench) -> None:
    """A client that goes away a moment after its request has its run ended, and the file is not reported to hang."""
    stuck: list[str] = []

    async def ask() -> None:
        engine = bench.engine(on_stuck=stuck.append)
        line = await engine.models.open(bench.kept(toiling(1)))
        future = engine.submit(line, row(3000), until=asyncio.get_running_loop().time() + 30)
        await asyncio.sleep(0.05)
        future.cancel()
        while not bench.batches:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(ask(), 60))
    assert stuck == []


@pytest.mark.parametrize("prepare", [lambda line: None, lambda line: setattr(line.model, "fixed", 0.005)])
def test_long_runs_leave_their_places(bench: Bench, prepare: Callable[[ModelQueue], None]) -> None:
    """With one place for batches, and two models whose rows take long, a third is answered while they run."""

    async def ask() -> None:
        engine = bench.engine(runs=1)
        long = [await engine.models.open(bench.kept(toiling(steps))) for steps in (300, 301)]
        other = await engine.models.open(bench.kept(scaling(2)))
        prepare(other)
        running = [until_then(engine, line, 2 * _SIDE, seconds=60) for line in long]
        await asyncio.sleep(0.2)
        for value in range(20):
            outputs = await engine.submit(other, row(value))
            assert float(outputs["logits"][0, 0]) == 2.0 * value
        assert not any(future.done() for future in running)
        for future in running:
            future.cancel()
        while len(bench.batches) < 22:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(ask(), 120))


def test_a_model_that_kept_the_loop_is_run_in_threads_for_a_while(bench: Bench) -> None:
    """A model that was taken for quick, and cost a tenth of a second of processor time there, is not quick again."""

    async def ask() -> bool:
        engine = bench.engine()
        line = await engine.models.open(bench.kept(toiling(30)), QUICK)  # as if inspection had been deceived
        line.model.fixed = line.model.per_row = 1e-6
        await engine.submit(line, row(800))
        return line.model.quick(1, 1, seconds=10.0)

    assert asyncio.run(ask()) is False


def test_rows_are_no_longer_than_what_was_tried() -> None:
    """A batch is at most four times the largest measured one, by rows times length to the power of the growth."""
    linear = RunLimits(True, power=1.0, rows=8, length=100)
    assert [linear.most_rows(length, most_bytes=2**62) for length in (100, 50, 3200, 3201)] == [32, 64, 1, 0]
    square = RunLimits(True, power=2.0, rows=8, length=100)
    assert [square.most_rows(length, most_bytes=2**62) for length in (100, 200, 565, 566)] == [32, 8, 1, 0]
    assert (linear.longest(), square.longest()) == (3200, 565)
    assert RunLimits(True, rows=100, row_bytes=10).most_rows(1, most_bytes=55) == 5


def test_too_long_rows_are_refused_with_the_longest(bench: Bench) -> None:
    """A row of 81 numbers, where ten rows of two were tried, is answered with the length that is allowed."""

    async def ask() -> None:
        engine = bench.engine()
        line = await engine.models.open(bench.kept(scaling(1, columns="L")), RunLimits(True, rows=10, length=2))
        assert len((await engine.submit(line, {"x": np.ones((1, 80), np.float32)}))["logits"]) == 1
        with pytest.raises(InvalidRequest) as failure:
            engine.submit(line, {"x": np.ones((1, 81), np.float32)})
        assert failure.value.code == "inputs_too_long"
        assert "81 long" in failure.value.message
        assert "80 at most" in failure.value.message

    asyncio.run(ask())


def test_lengths_are_batches_of_their_own_size(bench: Bench) -> None:
    """Four rows of length two were tried: at most sixteen such rows are a batch, and two of length sixteen."""

    async def ask() -> None:
        engine = bench.engine()
        line = await engine.models.open(bench.kept(scaling(1, columns="L")), RunLimits(True, rows=4, length=2))
        line.model.fixed = line.model.per_row = 0.0
        asked = [engine.submit(line, {"x": np.ones((40, length), np.float32)}) for length in (2, 16)]
        assert [outputs["logits"].shape for outputs in await asyncio.gather(*asked)] == [(40, 2), (40, 16)]

    asyncio.run(ask())
    found = {length: {b.rows for b in bench.batches if b.slices[0].request.length == length} for length in (2, 16)}
    assert found == {2: {16, 8}, 16: {2}}


def test_the_model_that_has_had_least_time_is_next(bench: Bench) -> None:
    """A model whose batches have cost a second more than another's lets that catch up, and then goes on."""

    async def ask() -> OpenModel:
        engine = bench.engine(max_batch_rows=1)
        dear, cheap = [await engine.models.open(bench.kept(scaling(factor)), QUICK) for factor in (2, 3)]
        dear.spent = 1.0
        rows = {"x": np.ones((20, 2), np.float32)}
        await asyncio.gather(engine.submit(dear, rows), engine.submit(cheap, rows))
        return cheap.model

    cheap = asyncio.run(ask())
    assert [batch.model is cheap for batch in bench.batches] == [True] * 20 + [False] * 20


def test_time_that_was_not_used_is_not_kept(bench: Bench) -> None:
    """A model that comes anew starts where the others are: it may not hold them up for what it did not use before."""

    async def ask() -> float:
        engine = bench.engine()
        busy, late = [await engine.models.open(bench.kept(scaling(factor)), QUICK) for factor in (2, 3)]
        busy.spent = 100.0
        await engine.submit(busy, row(1))
        await engine.submit(late, row(1))
        return late.spent

    assert asyncio.run(ask()) >= 100.0
