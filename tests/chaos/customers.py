"""Well-behaved clients: a request without an answer is repeated with the same key, and every promise is recorded."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import httpx
from pyarrow.parquet import read_metadata

from tests.chaos.orders import Acknowledged, Batch, Errand, Order, some_digits
from tests.chaos.site import Shared
from tests.helpers import Json

FINAL = ("succeeded", "failed", "cancelled")
_MAX_PAUSE_S = 3.0
_LONG_POLL_S = 15


class GaveUp(Exception):
    """No answer came until the end of the run."""


class Caller:
    """One customer's way to the service: any of its APIs, again and again until one answers; all share `troubles`."""

    def __init__(self, urls: Sequence[str], troubles: Counter[str], *, until: float, seed: int = 0) -> None:
        self._clients = [httpx.Client(base_url=url, timeout=httpx.Timeout(40, connect=3)) for url in urls]
        self._until = until
        self._rng = random.Random(seed)
        self._turn = seed
        self._troubles = troubles

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request until it is answered by something that stays true; raises GaveUp."""
        pause = 0.1
        while time.monotonic() < self._until:
            self._turn += 1
            try:
                answer = self._clients[self._turn % len(self._clients)].request(method, path, **options)
            except httpx.TransportError as error:
                trouble = type(error).__name__
            else:
                if not _passes(method, answer, options):
                    return answer
                trouble = f"{answer.status_code} {_code(answer)}"
            self._troubles[trouble] += 1
            time.sleep(pause * self._rng.uniform(0.5, 1))
            pause = min(2 * pause, _MAX_PAUSE_S)
        raise GaveUp(f"{method} {path}")

    def create(self, kind: str, key: str, **request: Any) -> Acknowledged:
        """POST with a key, and remember what came of it; raises AssertionError where it is refused."""
        answer = self.ask("POST", f"/v1/{kind}", headers={"Idempotency-Key": key}, **request)
        assert answer.is_success, f"POST /v1/{kind} was answered with {answer.status_code}: {answer.text}"
        return Acknowledged(kind, key, request, answer.json()["id"])

    def get(self, path: str, **params: Any) -> Json:
        """A record that must be there."""
        answer = self.ask("GET", path, params=params)
        assert answer.status_code == 200, f"GET {path} was answered with {answer.status_code}: {answer.text}"
        return dict(answer.json())

    def predict(self, model_id: str, rows: Sequence[Sequence[float]]) -> list[Json]:
        """The answers of a model for rows, which it must give."""
        answer = self.ask("POST", f"/v1/models/{model_id}/predict", json={"inputs": rows})
        assert answer.status_code == 200, f"a prediction was answered with {answer.status_code}: {answer.text}"
        return list(answer.json()["predictions"])


def _passes(method: str, answer: httpx.Response, options: Json) -> bool:
    """True where the answer says no more than "not now": the server's troubles, or the key is still being served."""
    keyed = "Idempotency-Key" in options.get("headers", {})
    return answer.status_code >= 500 or answer.status_code == 429 or (keyed and answer.status_code == 409)


def _code(answer: httpx.Response) -> str:
    try:
        code = str(answer.json()["code"])
    except (ValueError, KeyError, TypeError):
        return "without a problem"
    return (
        code
        if answer.status_code not in (429, 503) or "Retry-After" in answer.headers
        else f"{code} without Retry-After"
    )


def serve(order: Order, caller: Caller, *, model_id: str, dataset_id: str, hook: str | None) -> None:
    """All that one customer does: upload, order, perhaps cancel, wait for the end, fetch the report."""
    with _minding(order, caller):
        if order.dataset is not None:
            dataset_id = _upload(order, caller, order.dataset)
        ordered = caller.create("jobs", f"job-{order.number}", json=order.body(model_id, dataset_id, hook))
        order.acknowledged.append(ordered)
        if order.cancel_after is not None:
            time.sleep(order.cancel_after)
            answer = caller.ask("POST", f"/v1/jobs/{ordered.record_id}/cancel")
            order.cancelling = order.cancelling or answer.status_code == 200
            assert answer.status_code in (200, 409), f"cancelling: {answer.status_code} {answer.text}"
        if _follow(order, caller, f"/v1/jobs/{ordered.record_id}"):
            order.report = _fetch(caller, f"/v1/jobs/{ordered.record_id}/report")


def look_in(visit: Errand, caller: Caller, shared: Shared) -> None:
    """All that a visitor does: have rows predicted, upload, wait until it has been looked at, and predict again."""
    with _minding(visit, caller):
        assert visit.dataset is not None
        predict_again(caller, shared)
        dataset_id = _upload(visit, caller, visit.dataset)
        while (record := caller.get(f"/v1/datasets/{dataset_id}", wait=_LONG_POLL_S))["status"] == "inspecting":
            time.sleep(0.1)
        assert record["status"] == "ready", record
        predict_again(caller, shared)


def predict_again(caller: Caller, shared: Shared) -> None:
    """Predictions are those of the undisturbed service, whichever process answers."""
    found = caller.predict(shared.model_id, some_digits(len(shared.predicted)))
    for answer, wanted in zip(found, shared.predicted, strict=True):
        same = answer["label"] == wanted["label"] and abs(answer["confidence"] - wanted["confidence"]) < 1e-5
        assert same, f"a prediction was {answer}, and {wanted} before"


def predict(batch: Batch, caller: Caller, *, model_id: str, rows_id: str) -> None:
    """Have all rows of a dataset predicted, and fetch the answers."""
    with _minding(batch, caller):
        ordered = caller.create("batches", f"batch-{batch.number}", json={"model": model_id, "dataset_id": rows_id})
        batch.acknowledged.append(ordered)
        place = f"/v1/batches/{ordered.record_id}"
        if _follow(batch, caller, place):
            batch.manifest = caller.get(f"{place}/results/manifest")
            for part in batch.manifest["parts"]:
                content = _fetch(caller, f"{place}/results/parts/{part['number']}")
                batch.parts.append((hashlib.sha256(content).hexdigest(), read_metadata(BytesIO(content)).num_rows))
            batch.answers = _fetch(caller, f"{place}/results", format="ndjson")


@contextmanager
def _minding(errand: Errand, caller: Caller) -> Iterator[None]:
    """Note what went wrong, and that it is over."""
    try:
        yield
    except GaveUp as error:
        errand.complaints.append(f"customer {errand.number}: no answer, {error}")
    except AssertionError as error:
        errand.complaints.append(f"customer {errand.number}: {error}")
    finally:
        errand.has_ended = True
        caller.close()


def _upload(errand: Errand, caller: Caller, content: bytes) -> str:
    uploaded = caller.create("datasets", f"dataset-{errand.number}", content=content)
    errand.acknowledged.append(uploaded)
    return uploaded.record_id


def _follow(errand: Errand, caller: Caller, path: str) -> bool:
    """Look again and again until it has ended; returns whether it succeeded."""
    while True:
        errand.record = caller.get(path, wait=_LONG_POLL_S)
        if errand.record["status"] in FINAL:
            return bool(errand.record["status"] == "succeeded")
        time.sleep(0.1)


def _fetch(caller: Caller, path: str, **params: Any) -> bytes:
    answer = caller.ask("GET", path, params=params)
    assert answer.status_code == 200, f"GET {path} was answered with {answer.status_code}: {answer.text}"
    return answer.content


def begin(what: Callable[..., None], errand: Errand, caller: Caller, **place: Any) -> threading.Thread:
    """Do `serve`, `look_in` or `predict` in a thread."""
    thread = threading.Thread(
        target=what, args=(errand, caller), kwargs=place, name=f"customer-{errand.number}", daemon=True
    )
    thread.start()
    return thread
