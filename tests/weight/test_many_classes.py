"""A model of thousands of classes: rows of one request in many batches hold neither the event loop nor memory."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path

import numpy as np
import pytest

from service.predict.engine.profile import RunLimits
from service.predict.engine.scheduler import Scheduler, SchedulerOptions
from service.predict.engine.session import release_arena
from service.process_memory import MemoryRelease, resident_bytes
from service.registry.artifacts import ArtifactStore
from tests.helpers.served import scaling
from tests.helpers.staging import stage_bytes

pytestmark = pytest.mark.slow

CLASSES, ROWS = 8000, 4000
#: The bytes that may stay; all rows of one output take 122 MiB.
MAX_KEPT = 64 << 20


async def given_back(level: int) -> None:
    """Wait until the process has given memory back after large requests, down to this level."""
    release = asyncio.ensure_future(MemoryRelease(release_arena).run())
    async with asyncio.timeout(20):
        while resident_bytes() > level:
            await asyncio.sleep(0.1)
    release.cancel()


@pytest.mark.parametrize("outputs", [(), ("probabilities",), ("logits", "probabilities")], ids=str)
def test_rows_in_many_batches(tmp_path: Path, outputs: tuple[str, ...]) -> None:
    """Batches write into arrays of the whole request in their own threads; what is not taken is not kept."""
    store, longest, batches = ArtifactStore(tmp_path), 0.0, []
    with stage_bytes(store, scaling(3, columns=CLASSES)) as staged:
        digest = staged.keep()
    row = np.random.default_rng(0).permutation(CLASSES).astype(np.float32) / CLASSES
    # Every row is the same memory: the test measures what the service holds.
    rows = np.broadcast_to(row, (ROWS, CLASSES))

    async def ask() -> dict[str, np.ndarray]:
        nonlocal longest
        scheduler = Scheduler(store.held, SchedulerOptions(10**9, runs=2), on_batch=batches.append)
        queue = await scheduler.models.open(digest, RunLimits(sizes_follow_shapes=True))
        future = scheduler.submit(queue, {"x": rows}, outputs=outputs)
        last = time.thread_time()
        while not future.done():
            await asyncio.sleep(0.001)
            longest, last = max(longest, time.thread_time() - last), time.thread_time()
        scheduler.shut_down()
        return await future

    before = resident_bytes()
    found = asyncio.run(ask())
    assert set(found) == {"index", "confidence", "uncalibrated_confidence", *outputs}
    assert found["index"].tolist() == [int(row.argmax())] * ROWS
    for name in outputs:
        assert found[name].shape == (ROWS, CLASSES)
        assert (found[name] == found[name][0]).all()
    assert max(batch.rows for batch in batches) * CLASSES <= 1 << 20
    assert longest < 0.05, "processor time of the event loop in one turn"
    del found
    batches.clear()
    gc.collect()  # the event loop of this test
    asyncio.run(given_back(before + MAX_KEPT))
