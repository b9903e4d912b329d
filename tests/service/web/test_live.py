"""Jobs as a stream of parts of pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from starlette.testclient import TestClient

from service.registry.registry import Registry
from service.registry.settings import ServiceSettings
from service.web.jobs import FollowedJob
from service.web.live import drawn
from tests.helpers.api import Api
from tests.helpers.backends import place
from tests.helpers.live_api import LiveApi, following, live, order
from tests.helpers.race_events import trained

STREAM = {"Accept": "text/event-stream"}
KEY = "a-key-of-this-service-0123456789"
LOST = "job_00000000000000000000000000"


class Told(NamedTuple):
    """One event of a stream."""

    event: str
    id: str
    part: str


def parts(lines: Iterator[str]) -> Iterator[Told]:
    """The events of a stream; comments are passed over."""
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line and name:
            fields.setdefault(name, []).append(value)
        elif not line and "event" in fields:
            yield Told(fields["event"][0], "".join(fields.get("id", [])), "\n".join(fields["data"]))
            fields = {}
        elif not line:
            fields = {}


@contextmanager
def looking(url: str, *job_ids: str, **headers: str) -> Iterator[Iterator[Told]]:
    """The stream of these jobs."""
    query = [("job", job_id) for job_id in job_ids]
    with httpx.stream("GET", f"{url}/live", params=query, headers={**STREAM, **headers}, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        yield parts(answer.iter_lines())


def tell(registry: Registry, job_id: str, *told: tuple[str, dict[str, object]]) -> None:
    """Write the events that a worker reports."""
    with registry.write() as unit:
        unit.events.extend(job_id, told)


def until(stream: Iterator[Told], text: str) -> Told:
    """The first part that holds this."""
    return following(one for one in stream if text in one.part)


@pytest.fixture
def browser(api: Api) -> TestClient:
    """A browser on a service without keys."""
    return TestClient(api.client.app, base_url="http://localhost", headers=STREAM)


def test_what_has_ended_is_told_once_and_the_stream_ends(api: Api, browser: TestClient) -> None:
    """The part of a job that has ended, one of a job that is gone, and an end after which nobody comes back."""
    job_id = api.ordered()
    api.post(f"/v1/jobs/{job_id}/cancel")
    told = list(parts(iter(browser.get("/live", params={"job": [job_id, LOST, job_id]}).text.split("\n"))))
    assert sorted(one.event for one in told) == sorted([job_id, LOST, "end"])
    assert "Cancelled: nothing was published" in next(one.part for one in told if one.event == job_id)
    assert "deleted in the meantime" in next(one.part for one in told if one.event == LOST)
    again = browser.get("/live", params={"job": job_id}, headers={"Last-Event-ID": told[-1].id})
    assert (again.status_code, again.content) == (204, b"")


@pytest.mark.parametrize("query", ["", "job=x", "&".join([f"job={LOST}"] * 21)])
def test_a_stream_is_of_some_jobs(browser: TestClient, query: str) -> None:
    """A stream is of one job at least, of twenty at most, each by its id."""
    assert browser.get(f"/live?{query}").status_code == 422


def test_all_who_look_are_told_the_same_until_the_end(tmp_path: Path) -> None:
    """Two streams of a job, and one of two jobs: every epoch comes to all; a job that is deleted is one that ended."""
    with (
        place(tmp_path / "data") as settings,
        live(settings) as [api],
        # Closed here: since Python 3.13 a connection to SQLite that nobody closes warns, in whatever test runs then.
        closing(Registry.open(ServiceSettings(**settings))) as registry,
    ):
        first, second = order(api.url), order(api.url)
        with looking(api.url, first) as one, looking(api.url, first, second) as both:
            until(one, "Waiting for a worker")
            until(both, "Waiting for a worker")
            tell(registry, first, *trained("fedlas α=0.1", 1, losses=[2.0, 1.0]))
            seen = until(one, "epoch 2 of 10")
            assert seen == until(both, "epoch 2 of 10")
            assert seen.event == first
            with registry.write() as unit:
                unit.jobs.change_status(unit.jobs.get(first), "cancelled")
            assert [told.event for told in one][-1] == "end"
            with registry.write() as unit:
                unit.jobs.change_status(unit.jobs.get(second), "cancelled")
                unit.jobs.delete(second)
            assert "deleted in the meantime" in [told.part for told in both][-2]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    """An API process with an administrator's key."""
    with place(tmp_path_factory.mktemp("keyed") / "data") as settings, live({**settings, "api_keys": KEY}) as [api]:
        yield api


def created(client: httpx.Client, root: str) -> str:
    """The id of a job that waits, created under this path."""
    kinds = ("model", "dataset")
    body = {f"{kind}_id": client.post(f"{root}/{kind}s", content=b"x").json()["id"] for kind in kinds}
    return str(client.post(f"{root}/jobs", json=body).json()["id"])


@pytest.mark.slow
def test_a_stream_ends_with_its_session(keyed: LiveApi) -> None:
    """A sign-out in one tab reaches the others at once, though nothing happens to the job."""
    with httpx.Client(base_url=keyed.url, headers={"Origin": keyed.url}, timeout=60) as client:
        client.post("/sign-in", data={"key": KEY})
        job_id = created(client, "/session/v1")
        session = {"Cookie": f"fedlas-session={client.cookies['fedlas-session']}", **STREAM}
        events = f"{keyed.url}/session/v1/jobs/{job_id}/events"
        with (
            looking(keyed.url, job_id, **session) as stream,
            httpx.stream("GET", events, headers=session, timeout=20) as of_the_api,
        ):
            until(stream, "Waiting for a worker")
            assert of_the_api.status_code == 200
            client.post("/sign-out")
            assert [told.event for told in stream] == ["signed-out"]
            assert [told.event for told in parts(of_the_api.iter_lines())][-1] == "signed-out"
        assert client.get("/live", params={"job": job_id}, headers=STREAM).status_code == 401


@pytest.mark.slow
def test_a_stream_ends_with_its_key(keyed: LiveApi) -> None:
    """The open stream of a revoked key ends within seconds, though nothing happens to the job."""
    with httpx.Client(base_url=keyed.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
        job_id = created(client, "/v1")
        key = client.post("/v1/keys", json={"name": "watcher", "scopes": ["read"]}).json()
        holder = {"Authorization": f"Bearer {key['key']}"}
        events = f"{keyed.url}/v1/jobs/{job_id}/events"
        page = f"{keyed.url}/live?job={job_id}"  # which streams whatever is accepted
        with (
            httpx.stream("GET", events, headers={**STREAM, **holder}, timeout=20) as stream,
            httpx.stream("GET", page, headers=holder, timeout=20) as parts_of_pages,
        ):
            assert (stream.status_code, parts_of_pages.status_code) == (200, 200)
            assert client.delete(f"/v1/keys/{key['id']}").status_code == 204
            for one in (stream, parts_of_pages):
                assert b"".join(one.iter_bytes())  # which ends, or the read times out


def test_a_long_job_is_drawn_small(api: Api) -> None:
    """Five thousand epochs of forty candidates fit into 60 kB."""
    job_id = api.ordered()
    for number in range(1, 41):
        for fold in range(1, 6):
            losses = [1 / epoch for epoch in range(1, 26)]
            name = f"fedlas_plus α=0.{number} lr=0.{number} wd=0.005 25 epochs"
            tell(api.registry, job_id, *trained(name, number, losses=losses, fold=fold, nll=0.3 + number / 100))
    frame = drawn(FollowedJob(api.registry, job_id))
    assert len(frame.content) < 60_000
    assert not frame.final
