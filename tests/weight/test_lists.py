"""Lists of what older versions stored: records of megabytes each, written into the registry directly."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.api.plumbing.responses import MAX_BYTES
from service.registry import tables
from service.registry.registry import UnitOfWork
from service.registry.tables import new_id, now
from tests.helpers.api import Api, open_api

pytestmark = pytest.mark.slow

_LARGE = "x" * 1_500_000


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """An API with nothing in it."""
    with ExitStack() as stack:
        yield open_api(tmp_path / "data", stack)


def _job(unit: UnitOfWork, text: str, job_id: str) -> None:
    row = tables.Job(
        id=job_id,
        status="queued",
        created_at=now(),
        model_id="mdl_x",
        dataset_id="ds_x",
        request={"method": "auto", "metadata": {"note": text}, "publish_as": None},
        progress={},
        history=[],
    )
    unit.jobs.open(row)
    unit.work.open(row.id, memory_bytes=0)


def _upload(table: type[tables.Model] | type[tables.Dataset], prefix: str) -> Callable[[UnitOfWork, str, str], None]:
    def add(unit: UnitOfWork, text: str, record_id: str) -> None:
        fresh = {"sha256": "a" * 64, "bytes": 1, "status": "ready", "created_at": now(), "options": {}}
        more = {"origin": "uploaded"} if table is tables.Model else {}
        profile = {"warnings": [text], "num_classes": 2}
        unit.session.add(table(id=new_id(prefix), name="n", profile=profile, **fresh, **more))

    return add


def _event(unit: UnitOfWork, text: str, job_id: str) -> None:
    unit.events.add(job_id, "progress", {"note": text})


def _delivery(unit: UnitOfWork, text: str, job_id: str) -> None:
    row = tables.Delivery(
        id=new_id("msg"),
        job_id=job_id,
        type="job.succeeded",
        url="https://example.org",
        body="{}",
        attempts=[{"at": now().isoformat(), "error": text, "seconds": 1.0}],
        status="delivered",
        created_at=now(),
    )
    unit.session.add(row)
    unit.session.flush()
    unit.work.open(row.id)


KINDS: dict[str, tuple[str, Callable[[UnitOfWork, str, str], None]]] = {
    "jobs": ("/v1/jobs", lambda unit, text, _: _job(unit, text, new_id("job"))),
    "models": ("/v1/models", _upload(tables.Model, "mdl")),
    "datasets": ("/v1/datasets", _upload(tables.Dataset, "ds")),
    "events": ("/v1/jobs/{job}/events", _event),
    "deliveries": ("/v1/jobs/{job}/deliveries", _delivery),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pages_end_by_bytes(api: Api, kind: str) -> None:
    """However large old records are, a page has one of them or about a mebibyte, and walking meets each once."""
    path, add = KINDS[kind]
    job_id = new_id("job")
    with api.registry.write() as unit:
        _job(unit, "small", job_id)
        for _ in range(4):
            add(unit, _LARGE, job_id)
    path = path.replace("{job}", job_id)
    first = api.client.get(path, params={"limit": 1000})
    assert len(first.content) < 1.01 * len(_LARGE), "one record"
    assert first.json()["has_more"] is True
    found = _walked(api, path)
    assert len(found) == len(set(found)) >= 4
    assert found == sorted(found, reverse=True)


def test_a_list_takes_little_memory(api: Api) -> None:
    """75 MB of records are not read for a page of 1.5 MB."""
    with api.registry.write() as unit:
        for _ in range(50):
            _job(unit, _LARGE, new_id("job"))
            unit.session.flush()
            unit.session.expunge_all()
    tracemalloc.start()
    page = api.client.get("/v1/jobs?limit=1000")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (page.status_code, page.json()["has_more"]) == (200, True)
    assert peak < 64 * 1024**2


def test_small_records_fill_a_page(api: Api) -> None:
    """A page of small records ends at its limit, one of middling ones at a mebibyte."""
    with api.registry.write() as unit:
        for _ in range(30):
            _job(unit, "x" * 100_000, new_id("job"))
    page = api.client.get("/v1/jobs?limit=1000")
    assert 0.8 * MAX_BYTES < len(page.content) < 1.1 * MAX_BYTES
    assert (len(page.json()["data"]), page.json()["has_more"]) == (10, True)
    assert len(_walked(api, "/v1/jobs")) == 30
    few = api.client.get("/v1/jobs?limit=3").json()
    assert (len(few["data"]), few["has_more"]) == (3, True)


def test_results_end_by_bytes(api: Api) -> None:
    """Rows with a thousand ranked classes each: a page is a mebibyte, and the next begins after its last row."""
    rows, ranked = 500, 400
    top = pa.array([[{"label": f"class {k}", "index": k, "confidence": 0.5} for k in range(ranked)]] * rows)
    table = pa.table({"row": pa.array(np.arange(rows)), "label": pa.array(["a"] * rows), "top_k": top})
    with api.registry.artifacts.stage() as staged, api.registry.write() as unit:
        pq.write_table(table, staged.path)
        batch = tables.Batch(
            id=new_id("bat"),
            status="succeeded",
            created_at=now(),
            model_id="mdl_x",
            dataset_id="ds_x",
            options={},
            progress={},
            results_sha256="b" * 64,
        )
        unit.batches.add(batch)
        unit.work.open(batch.id)
        api.registry.artifacts.adopt(staged.path, "b" * 64)
        path = f"/v1/batches/{batch.id}/results"
    assert _walked(api, path, "row") == list(range(rows))


def test_names_come_in_pages(api: Api) -> None:
    """Names are listed like all else, and a page of names with thousands of versions ends by bytes."""
    model = api.post("/v1/models", content=b"x")["id"]
    with api.registry.write() as unit:
        unit.session.add_all(
            tables.PublishedVersion(
                name=f"name-{name:02}", version=version, model_id=model, is_default=version == 1, created_at=now()
            )
            for name in range(11)
            for version in range(1, 1001)
        )
    page = api.client.get("/v1/names?limit=3").json()
    assert ([record["name"] for record in page["data"]], page["has_more"]) == (["name-00", "name-01", "name-02"], True)
    assert len(page["data"][0]["versions"]) == 1000
    assert _walked(api, "/v1/names", "name") == [f"name-{name:02}" for name in range(11)]
    assert api.client.get("/v1/names?after=name-055").json()["data"][0]["name"] == "name-06"
    wrong = api.client.patch("/v1/names/name-00", json={"default_version": 1001})
    assert (wrong.status_code, len(wrong.content) < 1000) == (422, True)
    assert len(api.client.post("/v2/repository/index", json={}).json()) == 10_000
    assert len(api.client.get("/v2/models").json()["models"]) <= 10_000
    assert len(api.client.get("/v2/models/stats").json()["model_stats"]) == 1000


def _walked(api: Api, path: str, key: str = "id") -> list[Any]:
    """The keys that tell all records apart, page by page; none is much larger than a record or a mebibyte."""
    found: list[Any] = []
    while True:
        answer = api.client.get(path, params={"limit": 1000, **({"after": found[-1]} if found else {})})
        assert len(answer.content) < 1.1 * max(MAX_BYTES, len(_LARGE))
        found += [record[key] for record in answer.json()["data"]]
        if not answer.json()["has_more"]:
            return found
