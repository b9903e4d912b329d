"""Scores sent to the running service, without a model: answered at once, refused cleanly, done though a part dies."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.helpers.service import Service, descendants_of, until
from tests.helpers.uploads import npz

pytestmark = pytest.mark.slow

PATH = "/v1/calibrators"


def drawn(rows: int = 2000, classes: int = 4) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Logits three times too large for their labels, and a split of every row."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(rows, classes)) * 2
    targets = (true + rng.gumbel(size=true.shape)).argmax(axis=1)
    return (3 * true).astype(np.float32), targets, np.where(np.arange(rows) % 2 == 0, "calibration", "test")


def test_killed_worker_midway(own_service: Service) -> None:
    """After SIGKILL of the light worker while it fits, the same request is still answered with the calibrator."""
    logits, targets, _ = drawn(5_000, 10)
    content = npz(logits=logits, labels=targets)
    worker = own_service.pid("worker-light")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(own_service.client.post, PATH, content=content)
        until(lambda: descendants_of(worker), seconds=150, what="the child has begun")
        os.kill(worker, signal.SIGKILL)
        answer = waiting.result()
    assert answer.status_code in (201, 202), (answer.text, own_service.log)
    record = own_service.final(f"{PATH}/{answer.json()['id']}")
    assert record["status"] == "succeeded", (record, own_service.log)
    assert own_service.pid("worker-light") != worker
