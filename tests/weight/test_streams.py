"""Streams of events from many different positions of a long job."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.processes.api import create_app
from service.registry import tables
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings
from service.registry.tables import new_id, now


@dataclass(frozen=True)
class _Place:
    record_id: str
    after: int


def test_many_who_stand_at_different_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of one long job, each from another position: all are served, some thousand lines at a time."""
    job_id = new_id("job")
    monkeypatch.setattr("service.api.plumbing.long_poll._MAX_EVENTS", 1_500)

    def prepare(registry: Registry) -> None:
        with registry.write() as unit:
            row = tables.Job(
                id=job_id,
                status="queued",
                created_at=now(),
                model_id="mdl_x",
                dataset_id="ds_x",
                request={"method": "auto", "metadata": {}, "publish_as": None},
                progress={},
                history=[],
            )
            unit.jobs.open(row)
            unit.work.open(job_id)
            unit.session.add_all(
                tables.Event(job_id=job_id, number=number, type="progress", at=now(), data={"note": "x" * 500})
                for number in range(2, 400)
            )

    async def run() -> None:
        app = create_app(ServiceSettings(data_dir=tmp_path))
        async with app.fastapi.router.lifespan_context(app.fastapi):
            registry: Registry = app.services.registry
            await asyncio.to_thread(prepare, registry)
            waiting = app.services.long_poll
            places = range(0, 200, 5)
            seen = await asyncio.to_thread(waiting._round, [_Place(job_id, after) for after in places])
            assert sum(map(len, seen.events.values())) < 2_000
            told = await asyncio.gather(*(waiting.for_events(job_id, after, 60) for after in places))
            assert [update.events[0].number for update in told] == [after + 1 for after in places]

    asyncio.run(run())
