"""Probes: who can be reached and who works, in time whatever hangs."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from service.api.plumbing import probes
from service.api.plumbing.probes import Probes
from service.registry.queues import QUEUES
from tests.helpers.api import Api, MakeApi


@pytest.fixture
def reached(api: Api, monkeypatch: pytest.MonkeyPatch) -> Api:
    """An API with a broker at once: a look for one waits a second."""
    monkeypatch.setattr(api.services.notifier, "check", lambda: None)
    return api


def beat(api: Api, name: str, queues: list[str], *, unfit: str | None = None) -> None:
    """A worker lives, and may be able to open no upload."""
    with api.registry.write() as unit:
        unit.workers.heartbeat(name, machine="m", process=name, queues=queues, gpu=False, memory_bytes=1, unfit=unfit)


def test_living_workers_are_counted_by_queue(reached: Api) -> None:
    """`workers` tells for every queue how many take from it, 0 included; a silent worker is not counted."""
    assert reached.client.get("/readyz").json()["workers"] == dict.fromkeys(QUEUES, 0)
    beat(reached, "a", ["inspect", "calibrate.cpu"])
    beat(reached, "b", ["inspect", "deliver"])
    beat(reached, "silent", list(QUEUES))
    with reached.registry.write() as unit:
        row = next(row for row in unit.workers.on_machine("m") if row.name == "silent")
        row.seen_at = row.seen_at.replace(year=2020)
    workers = reached.client.get("/readyz").json()["workers"]
    assert workers == {"inspect": 2, "plan": 0, "calibrate.cpu": 1, "calibrate.gpu": 0, "predict": 0, "deliver": 1}


def test_whether_uploads_can_be_opened_is_told(reached: Api) -> None:
    """`uploads` says why none can be opened, and nothing as soon as one worker can."""
    assert reached.client.get("/readyz").json()["uploads"].startswith("no worker takes this yet")
    for unfit in ("it cannot load PyTorch", "it cannot load ONNX"):
        beat(reached, "a", ["inspect", "calibrate.cpu"], unfit=unfit)
        assert reached.client.get("/readyz").json()["uploads"] == unfit
    assert "it cannot load ONNX" in reached.client.get("/operations").text
    beat(reached, "b", ["inspect"])
    assert reached.client.get("/readyz").json()["uploads"] is None


def test_a_broker_that_hangs_does_not_hang_the_probe(make_api: MakeApi) -> None:
    """A server that accepts and says nothing is reported as unavailable, and the rest of the answer is there."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = make_api(broker_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        answer = api.client.get("/readyz")
    assert answer.status_code == 503
    assert api.client.get("/healthz").json() == {"status": "ok"}
    checks = answer.json()["checks"]
    assert set(checks) == {"database", "broker", "storage", "serving"}
    assert (checks["database"], checks["storage"]) == ("ok", "ok")
    assert checks["broker"].startswith("unavailable: ")


def test_a_question_that_hangs_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody who asks gets a TimeoutError in time, one thread hangs for all of them, and a late answer is heard."""
    monkeypatch.setattr(probes, "_TIMEOUT_S", 0.2)
    asked: list[int] = []
    go = threading.Event()

    def question() -> str:
        asked.append(1)
        go.wait(30)
        return "late"

    async def ask() -> list[Any]:
        made = Probes()
        outcomes = []
        for _ in range(2):
            outcomes += await asyncio.gather(*(made.run("q", question) for _ in range(3)), return_exceptions=True)
        monkeypatch.setattr(probes, "_TIMEOUT_S", 30)
        waiting = asyncio.create_task(made.run("q", question))
        await asyncio.sleep(0)
        go.set()
        return [*outcomes, await waiting]

    *early, last = asyncio.run(ask())
    assert {type(outcome) for outcome in early} == {TimeoutError}
    assert (len(early), len(asked), last) == (6, 1, "late")


def test_an_error_is_told_and_asked_again() -> None:
    """An error that a check raises reaches its caller, and the next call checks anew."""
    answers: list[Any] = [OSError("away"), "here"]

    def question() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask() -> Any:
        made = Probes()
        with pytest.raises(OSError, match="away"):
            await made.run("q", question)
        return await made.run("q", question)

    assert asyncio.run(ask()) == "here"
