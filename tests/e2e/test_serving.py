"""Serving as its users meet it: several API processes on one port, kills in the middle, other services' requests."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.helpers.service import Service, is_alive, serving, until
from tests.helpers.uploads import Uploads

Json = dict[str, Any]
ROW = [0.5] * 64


@pytest.mark.timeout(240)
def test_several_api_processes(tmp_path: Path, uploads: Uploads) -> None:
    """Three processes answer on one port with the same values and counts that add up; one that is killed comes back.

    They share nothing but the registry: a name switched or unloaded through one is so for all within a second.
    """
    with serving(tmp_path / "data", FEDLAS_API_PROCESSES="3") as service:
        model = service.inspected("models", uploads["digits.onnx"])
        path, base = f"/v1/models/{model['id']}/predict", str(service.client.base_url)
        body = {"inputs": [ROW]}
        answers = []
        for _ in range(60):  # each on a connection of its own: they are dealt out
            answers.append(httpx.post(f"{base}{path}", json=body, timeout=30))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
        until(lambda: ok(service, model["id"]) == 60, what="all are counted, in every process")
        # Every process has opened the model, or it would not have been asked.
        until(lambda: gauge(service, "fedlas_sessions_open") == 3, what="all have it open")

        httpx.post(f"{base}/v2/repository/models/{model['id']}/unload", timeout=30).raise_for_status()
        time.sleep(1)
        assert {httpx.post(f"{base}{path}", json=body, timeout=30).status_code for _ in range(20)} == {409}
        httpx.post(f"{base}/v2/repository/models/{model['id']}/load", timeout=30).raise_for_status()

        killed = service.pid("serving-2")
        os.kill(killed, signal.SIGKILL)
        until(
            lambda: service.pid("serving-2") != killed and is_alive(service.pid("serving-2")),
            what="it is back",
        )
        until(lambda: httpx.post(f"{base}{path}", json=body, timeout=30).is_success, what="it answers")
        assert {httpx.post(f"{base}{path}", json=body, timeout=30).status_code for _ in range(30)} == {200}
        until(lambda: ok(service, model["id"]) >= 90, what="what the killed process counted is not lost")


def ok(service: Service, model: str) -> int:
    """How many requests were answered, by a scrape."""
    text = service.client.get("/metrics").text
    wanted = [line for line in text.splitlines() if line.startswith("fedlas_requests_total{") and model in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in wanted if 'outcome="ok"' in line)


def gauge(service: Service, name: str) -> float:
    """A gauge, by a scrape."""
    lines = service.client.get("/metrics").text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def test_clients_stay_connected_while_the_api_stops(tmp_path: Path, uploads: Uploads) -> None:
    """Requests under way when the service is asked to stop are answered; none is cut off."""
    with serving(tmp_path / "data") as service:
        model = service.inspected("models", uploads["digits.onnx"])
        rows = np.random.default_rng(0).random((2000, 64)).tolist()
        url = f"{service.client.base_url}/v1/models/{model['id']}/predict"
        codes: list[int] = []

        def ask() -> None:
            codes.append(httpx.post(url, json={"inputs": rows}, timeout=60).status_code)

        clients = [threading.Thread(target=ask) for _ in range(6)]
        for client in clients:
            client.start()
        until(lambda: codes, what="the first is answered")
        os.kill(service.pid("serving-1"), signal.SIGTERM)
        for client in clients:
            client.join()
        assert codes == [200] * 6
