"""A client that goes on asking while a test does something to the service."""

from __future__ import annotations

import threading
from collections import Counter

import httpx

from tests.helpers.walled import WalledApi

#: In place of a status: the connection ended without an answer.
LOST = "lost"


class Visitor:
    """Asks for the model `ordinary`, over one connection, until it is closed; `answers` counts by status."""

    def __init__(self, api: WalledApi) -> None:
        self._api = api
        self._over = threading.Event()
        self.answers: Counter[int | str] = Counter()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with httpx.Client(base_url=self._api.client.base_url, timeout=60) as client:
            while not self._over.wait(0.01):
                try:
                    answer = client.post("/v1/models/ordinary/predict", json={"inputs": [[1.0, 0.0]]})
                    self.answers[answer.status_code] += 1
                except httpx.TransportError:
                    self.answers[LOST] += 1

    def close(self) -> None:
        """Ask no more."""
        self._over.set()
        self._thread.join()
