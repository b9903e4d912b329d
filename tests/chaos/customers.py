"""Customers who send again what was not answered, with the same key, and note what they were promised."""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from tests.chaos.receiver import Receiver
from tests.helpers import Json
from tests.helpers.uploads import digits, digits_model, digits_npz, npz

_OPEN = ("inspecting", "queued", "running", "cancelling")
#: The first customers have a dataset of their own, whose test rows nobody has used: their reports can be compared.
COMPARED = 2
#: The last of five customers has rows predicted; every fourth of the others cancels a job.
_BATCH_EVERY, _CANCEL_EVERY = 5, 4
_MAX_CANCEL_S = 20.0
_BATCH_ROWS, _PREDICTED = 3_000, 50
_ROUNDING = 1e-5
_MAX_PAUSE_S = 3.0
_LONG_POLL_S = 5


@dataclass(frozen=True)
class Promise:
    """A request that was answered with 2xx: how to send it again, and which record came of it."""

    kind: str
    key: str
    request: Json
    record_id: str


@dataclass
class Customer:
    """One calibration or one batch of predictions, and what came of it.

    Attributes:
        promised: requests that were acknowledged.
        complaints: answers that nobody should get.
        record: the job or batch as it was seen last.
        result: the report of a job that succeeded, the rows of a batch.
    """

    number: int
    promised: list[Promise] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    record: Json = field(default_factory=dict)
    result: bytes = b""
    cancels: bool = False
    has_ended: bool = False

    @property
    def kind(self) -> str:
        """The kind of the order."""
        return "batches" if self.number % _BATCH_EVERY == _BATCH_EVERY - 1 else "jobs"

    @property
    def secret(self) -> str:
        """The secret that signs its messages."""
        return "whsec_" + base64.b64encode(random.Random(self.number).randbytes(24)).decode()


class Caller:
    """A way to the service: any of its APIs, again and again until one answers; all callers share `troubles`."""

    def __init__(self, urls: Sequence[str], troubles: Counter[str], *, seconds: float) -> None:
        self._clients = [httpx.Client(base_url=url, timeout=httpx.Timeout(40, connect=3)) for url in urls]
        self._until = time.monotonic() + seconds
        self._troubles = troubles
        self._turn = 0

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request until it is answered by something that stays true."""
        pause = 0.1
        while time.monotonic() < self._until:
            self._turn += 1
            try:
                answer = self._clients[self._turn % len(self._clients)].request(method, path, **options)
            except httpx.TransportError as error:
                trouble = type(error).__name__
            else:
                # A key is still being served, or the server has troubles; 503 and 429 must say when to come again.
                keyed = answer.status_code == 409 and "Idempotency-Key" in options.get("headers", {})
                if answer.status_code < 500 and answer.status_code != 429 and not keyed:
                    return answer
                trouble = str(answer.status_code)
                assert answer.status_code in (409, 502, 504) or "Retry-After" in answer.headers, answer.text
            self._troubles[trouble] += 1
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _MAX_PAUSE_S)
        raise AssertionError(f"{method} {path} was not answered")

    def create(self, kind: str, key: str, **request: Any) -> Promise:
        """POST with a key, and remember what came of it."""
        answer = self.ask("POST", f"/v1/{kind}", headers={"Idempotency-Key": key}, **request)
        assert answer.is_success, f"POST /v1/{kind} was answered with {answer.status_code}: {answer.text}"
        return Promise(kind, key, request, answer.json()["id"])

    def get(self, path: str, **params: Any) -> httpx.Response:
        """GET that must succeed."""
        answer = self.ask("GET", path, params=params)
        assert answer.status_code == 200, f"GET {path} was answered with {answer.status_code}: {answer.text}"
        return answer

    def final(self, path: str) -> Json:
        """A record whose work has ended."""
        while (record := self.get(path, wait=_LONG_POLL_S).json())["status"] in _OPEN:
            time.sleep(0.1)
        return dict(record)

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()


@dataclass(frozen=True)
class Shared:
    """The records that all customers use, and the predictions for the first rows."""

    model_id: str
    dataset_id: str
    rows_id: str
    predicted: list[Json]

    @classmethod
    def uploaded(cls, caller: Caller) -> Shared:
        """Upload it to a site that nothing happens to."""
        model = caller.create("models", "model", content=digits_model()).record_id
        dataset = caller.create("datasets", "dataset", content=digits_npz()).record_id
        content, params = npz(x=np.array(_rows(_BATCH_ROWS), dtype=np.float32)), {"purpose": "predict"}
        rows = caller.create("datasets", "rows", content=content, params=params).record_id
        for path in (f"models/{model}", f"datasets/{dataset}", f"datasets/{rows}"):
            assert (record := caller.final(f"/v1/{path}"))["status"] == "ready", record
        return cls(model, dataset, rows, _predictions(caller, model))


def come(number: int, caller: Caller, shared: Shared, receiver: Receiver | None = None) -> Customer:
    """A customer, who does in a thread all that there is to do."""
    customer = Customer(number)

    def act() -> None:
        try:
            _order(customer, caller, shared, receiver)
        except AssertionError as error:
            customer.complaints.append(f"customer {number}: {error}")
        finally:
            customer.has_ended = True
            caller.close()

    threading.Thread(target=act, name=f"customer-{number}", daemon=True).start()
    return customer


def _order(customer: Customer, caller: Caller, shared: Shared, receiver: Receiver | None) -> None:
    """Upload, order, perhaps cancel, have rows predicted meanwhile, and wait for the end."""
    number, dataset_id = customer.number, shared.dataset_id
    if number < COMPARED:
        customer.promised.append(caller.create("datasets", f"dataset-{number}", content=_shuffled_digits(number)))
        dataset_id = customer.promised[0].record_id
    if customer.kind == "jobs":
        race: Json = {"hyperparameters": {"epochs": 6}, "budget": {"minutes": 30, "candidates": 2}}
        body = {"model_id": shared.model_id, "dataset_id": dataset_id, "seed": number}
        body |= race if number % 2 else {"method": "post_hoc"}
        if receiver is not None:
            receiver.secrets[number] = customer.secret
            body["webhook"] = {"url": receiver.url(number), "secret": customer.secret}
    else:
        body = {"model": shared.model_id, "dataset_id": shared.rows_id}
    ordered = caller.create(customer.kind, f"{customer.kind}-{number}", json=body)
    customer.promised.append(ordered)
    path = f"/v1/{customer.kind}/{ordered.record_id}"
    if receiver is not None and number >= COMPARED and number % _CANCEL_EVERY == 0 and customer.kind == "jobs":
        customer.cancels = True
        time.sleep(random.uniform(0, _MAX_CANCEL_S))
        assert (answer := caller.ask("POST", f"{path}/cancel")).status_code in (200, 409), answer.text
    found = _predictions(caller, shared.model_id)
    assert all(map(same_answer, found, shared.predicted)), f"predictions were {found}"
    fetch(customer, caller)


def fetch(customer: Customer, caller: Caller) -> None:
    """Wait until it has ended, and keep its record and result."""
    path = f"/v1/{customer.kind}/{customer.promised[-1].record_id}"
    customer.record = caller.final(path)
    if customer.record["status"] == "succeeded":
        end, options = ("report", {}) if customer.kind == "jobs" else ("results", {"format": "ndjson"})
        customer.result = caller.get(f"{path}/{end}", **options).content


def same_answer(found: Json, wanted: Json) -> bool:
    """Equal but for the last bits, which depend on how many rows are computed at once."""
    return found["label"] == wanted["label"] and abs(found["confidence"] - wanted["confidence"]) <= _ROUNDING


def answers_of(content: bytes) -> list[Json]:
    """The rows of a batch's result."""
    return [json.loads(line) for line in content.splitlines()]


def _predictions(caller: Caller, model_id: str) -> list[Json]:
    answer = caller.ask("POST", f"/v1/models/{model_id}/predict", json={"inputs": _rows(_PREDICTED)})
    assert answer.status_code == 200, f"a prediction was answered with {answer.status_code}: {answer.text}"
    return list(answer.json()["predictions"])


def _shuffled_digits(number: int) -> bytes:
    """The digits with their rows in another order: another file, and another training."""
    rows, labels, splits = digits()
    chosen = np.random.default_rng(number).permutation(len(labels))
    return npz(x=rows[chosen], label=labels[chosen], split=splits[chosen])


def _rows(count: int) -> list[list[float]]:
    """The first rows of all batches: digits, again and again, each time a little otherwise."""
    rows, _, _ = digits()
    rng = np.random.default_rng(0)
    chosen = rows[rng.integers(0, len(rows), _BATCH_ROWS)]
    noisy = np.clip(chosen + rng.normal(0, 0.05, chosen.shape), 0, 1).astype(np.float32)
    return noisy[:count].tolist()  # type: ignore[no-any-return]
