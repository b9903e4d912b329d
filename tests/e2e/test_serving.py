"""Serving as its users meet it: several API processes on one port, kills in the middle, other services' requests."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from tests.helpers.service import Json, Service, is_alive, serving, until
from tests.helpers.uploads import Uploads

pytestmark = pytest.mark.slow

ROW = [0.5] * 64


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, uploads: Uploads) -> Iterator[tuple[Service, Json]]:
    """A service with three processes that answer predictions, and a model in it."""
    with serving(tmp_path_factory.mktemp("several") / "data", FEDLAS_API_PROCESSES="3") as service:
        yield service, service.inspected("models", uploads["digits.onnx"])


@pytest.mark.timeout(240)
def test_several_api_processes(several: tuple[Service, Json]) -> None:
    """Three processes on one port share values, sums of counts and (within a second) names; a killed one returns."""
    service, model = several
    path, base = f"/v1/models/{model['id']}/predict", str(service.client.base_url)
    once = httpx.Client(base_url=base, timeout=60, headers={"Connection": "close"})  # connections are dealt out
    with once:

        def answers(number: int) -> list[httpx.Response]:
            return [once.post(path, json={"inputs": [ROW]}) for _ in range(number)]

        before, first = ok(service, model["id"]), answers(60)
        assert {answer.status_code for answer in first} == {200}
        assert len({answer.text for answer in first}) == 1
        until(lambda: ok(service, model["id"]) == before + 60, what="all are counted, in every process")
        # Every process has opened the model, or it would not have been asked.
        until(lambda: gauge(service, "fedlas_sessions_open") == 3, what="all have it open")

        once.post(f"/v2/repository/models/{model['id']}/unload").raise_for_status()
        time.sleep(1)
        assert {answer.status_code for answer in answers(20)} == {409}
        once.post(f"/v2/repository/models/{model['id']}/load").raise_for_status()

        killed = service.pid("serving-2")
        os.kill(killed, signal.SIGKILL)
        until(lambda: service.pid("serving-2") != killed and is_alive(service.pid("serving-2")), what="it is back")
        until(lambda: answers(1)[0].is_success, what="it answers")
        assert {answer.status_code for answer in answers(30)} == {200}
        until(lambda: ok(service, model["id"]) >= before + 90, what="what the killed process counted is not lost")


def ok(service: Service, model: str) -> int:
    """How many requests were answered, by a scrape."""
    text = service.client.get("/metrics").text
    wanted = [line for line in text.splitlines() if line.startswith("fedlas_requests_total{") and model in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in wanted if 'outcome="ok"' in line)


def gauge(service: Service, name: str) -> float:
    """A gauge, by a scrape."""
    lines = service.client.get("/metrics").text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def test_clients_stay_connected_while_the_api_stops(several: tuple[Service, Json]) -> None:
    """Requests under way when their processes are asked to stop are answered; none is cut off."""
    service, model = several
    rows = np.random.default_rng(0).random((2000, 64)).tolist()
    url = f"{service.client.base_url}/v1/models/{model['id']}/predict"
    codes: list[int] = []

    def ask() -> None:
        codes.append(httpx.post(url, json={"inputs": rows}, timeout=120).status_code)

    clients = [threading.Thread(target=ask) for _ in range(6)]
    for client in clients:
        client.start()
    until(lambda: codes, what="the first is answered")
    for number in (1, 2, 3):
        os.kill(service.pid(f"serving-{number}"), signal.SIGTERM)
    for client in clients:
        client.join()
    assert codes == [200] * 6
