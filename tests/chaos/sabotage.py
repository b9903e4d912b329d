"""Each invariant broken by hand, on the site where it was just found to hold."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx

from tests.chaos.invariants import INVARIANTS, Run


@contextmanager
def _lose_a_batch(run: Run) -> Iterator[None]:
    run.site.rows("DELETE FROM batches WHERE id = (SELECT min(id) FROM batches) RETURNING id")
    yield


@contextmanager
def _forget_a_model(run: Run) -> Iterator[None]:
    run.site.rows(f"UPDATE jobs SET calibrated_model_id = NULL WHERE id = '{_first(run)}' RETURNING id")
    yield


@contextmanager
def _swap_a_report(run: Run) -> Iterator[None]:
    other = f"SELECT min(report_sha256) FROM jobs WHERE id <> '{_first(run)}'"
    run.site.rows(f"UPDATE jobs SET report_sha256 = ({other}) WHERE id = '{_first(run)}' RETURNING id")
    yield


@contextmanager
def _lie(run: Run) -> Iterator[None]:
    assert httpx.post(run.receiver.url(0), content=b'{"type": "job.failed"}').status_code == 400
    yield


@contextmanager
def _delete_a_file(run: Run) -> Iterator[None]:
    ((digest,),) = run.site.rows("SELECT max(report_sha256) FROM jobs")
    next(run.site.artifacts.rglob(digest)).unlink()
    yield


@contextmanager
def _leave_a_process(run: Run) -> Iterator[None]:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)", f"{run.site.folder}/"]
    with subprocess.Popen(sleep) as process:
        try:
            yield
        finally:
            process.kill()


def _first(run: Run) -> str:
    return run.customers[0].promised[-1].record_id


_DEEDS = (_lose_a_batch, _forget_a_model, _swap_a_report, _lie, _delete_a_file, _leave_a_process)
SABOTAGE: dict[str, Callable[[Run], AbstractContextManager[None]]] = dict(zip(INVARIANTS, _DEEDS, strict=True))
