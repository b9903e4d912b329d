"""The customers of a busy machine: each does one thing again and again, and every time is measured."""

from __future__ import annotations

import hashlib
import io
import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import numpy as np

from tests.chaos.customers import FINAL, Caller, GaveUp, begin, predict_again, serve
from tests.chaos.orders import COMPARED, PREDICTED, Order, order
from tests.chaos.site import Shared
from tests.helpers.live_api import Json, events_of
from tests.helpers.processes import until
from tests.helpers.uploads import npz

#: The deed of a customer, by its number.
Deed = Callable[[Caller, int], None]

#: Customers that order jobs, and that ask for predictions; readers of each job's events, and of its page.
_ORDERING, _PREDICTING, _READING = 2, 3, 2
_SCORES, _CLASSES = 300, 10
_UPLOAD_ROWS, _UPLOAD_COLUMNS = 16_384, 64  # 4 MiB
_PIECE_BYTES = 1024**2
#: Before each health check and prediction.
_PAUSE_S = 0.1
_LONG_POLL_S = 15
#: Seconds in which all that has begun comes to its end.
_GRACE_S = 300.0


@dataclass
class Crowd:
    """Everybody who comes until the end, what they use, and what became of it.

    Attributes:
        shared: the model and the dataset of all jobs.
        published: the model that predictions are asked of, and what it answered before.
        seconds: how long each deed took, by its name.
        complaints: answers that no customer should get.
        troubles: what was answered, or not, before a request was repeated.
    """

    url: str
    end: float
    shared: Shared
    published: Shared
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    complaints: list[str] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)
    orders: list[Order] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(COMPARED))

    @property
    def done(self) -> Counter[str]:
        """How often each deed was done."""
        return Counter({name: len(times) for name, times in self.seconds.items()})

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Let them come from now on; what they have begun has ended after the block."""
        deeds: list[tuple[str, Deed]] = [
            (f"small calibrations ({_SCORES} rows)", self._calibrate),
            ("health checks, each on a new connection, by the time since the last", self._look),
            ("uploads (4 MiB), inspected and deleted", self._upload),
            *_ORDERING * [("jobs", self._order)],
            *_PREDICTING * [(f"predictions ({PREDICTED} rows)", self._predict)],
        ]
        threads = [threading.Thread(target=self._repeat, args=deed, name=deed[0], daemon=True) for deed in deeds]
        for thread in threads:
            thread.start()
        yield
        for thread in threads:
            thread.join(2 * _GRACE_S)
        self.complaints += [f"{thread.name}: the last has not ended" for thread in threads if thread.is_alive()]

    def _repeat(self, name: str, deed: Deed) -> None:
        with self._calling() as caller:
            while time.monotonic() < self.end:
                with self._measured(name, number := next(self._numbers)):
                    deed(caller, number)

    @contextmanager
    def _measured(self, name: str, number: int) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        except (AssertionError, GaveUp) as error:
            self.complaints.append(f"{name}, number {number}: {error}")
        else:
            self.seconds[name].append(time.perf_counter() - began)

    def _calling(self) -> closing[Caller]:
        return closing(Caller([self.url], self.troubles, until=self.end + _GRACE_S))

    def _calibrate(self, caller: Caller, number: int) -> None:
        rng = np.random.default_rng(number)
        logits = rng.normal(size=(_SCORES, _CLASSES)).astype(np.float32)
        scores = npz(logits=3 * logits, labels=(logits + rng.gumbel(size=logits.shape)).argmax(axis=1))
        fitted = caller.create("calibrators", f"calibrator-{number}", content=scores, params={"wait": 30})
        record = _final(caller, f"/v1/calibrators/{fitted.record_id}")
        assert record["status"] == "succeeded", record

    def _look(self, caller: Caller, number: int) -> None:
        time.sleep(_PAUSE_S)
        assert caller.ask("GET", "/healthz", headers={"Connection": "close"}).status_code == 200

    def _predict(self, caller: Caller, number: int) -> None:
        time.sleep(_PAUSE_S)
        predict_again(caller, self.published)

    def _upload(self, caller: Caller, number: int) -> None:
        """Some as a whole, some in pieces."""
        file = io.BytesIO()
        np.savez(file, x=np.random.default_rng(number).random((_UPLOAD_ROWS, _UPLOAD_COLUMNS), np.float32))
        content = file.getvalue()
        request: Json = {"content": content}
        if number % 2:
            request = {"params": {"upload_id": _sent_in_pieces(caller, content, key=f"upload-{number}")}}
        place = f"/v1/datasets/{caller.create('datasets', f'dataset-{number}', **request).record_id}"
        record = _final(caller, place)
        found = (record["status"], record["num_samples"], record["sha256"])
        assert found == ("ready", _UPLOAD_ROWS, hashlib.sha256(content).hexdigest()), record
        assert caller.ask("DELETE", place).status_code == 204, place

    def _order(self, caller: Caller, number: int) -> None:
        """A job, and some who follow its events, or its page, until it has ended."""
        one = order(number, seed=0)
        self.orders.append(one)
        place = {"model_id": self.shared.model_id, "dataset_id": self.shared.dataset_id, "hook": None}
        thread = begin(serve, one, Caller([self.url], self.troubles, until=self.end + _GRACE_S), **place)
        until(lambda: one.record_id or one.has_ended, what="the job is acknowledged", seconds=_GRACE_S)
        if one.record_id is not None:  # else it complains itself
            with ThreadPoolExecutor() as pool:
                streams = [pool.submit(self._read, one.record_id) for _ in range(_READING)]
                streams += [pool.submit(self._look_at, one.record_id) for _ in range(_READING)]
            for stream in streams:
                stream.result()
        thread.join(_GRACE_S)

    def _read(self, job_id: str) -> None:
        """The stream of its events, from the first to the last."""
        with self._calling() as caller, self._measured("streams of events", 0):
            stream = caller.ask("GET", f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"})
            events = list(events_of(iter(stream.text.split("\n"))))
            numbers, last = [event["id"] for event in events], events[-1]["data"].get("status")
            assert numbers == list(range(1, len(events) + 1)), f"{job_id}: events {numbers}"
            assert last in FINAL, f"{job_id}: {events[-1]}"

    def _look_at(self, job_id: str) -> None:
        """The stream of its page."""
        with self._calling() as caller, self._measured("streams of pages", 0):
            stream = caller.ask("GET", "/live", params={"job": job_id}).text
            assert f"event: {job_id}\n" in stream, f"{job_id}: {stream}"
            assert "event: end\n" in stream, f"{job_id}: {stream}"


def _final(caller: Caller, place: str) -> Json:
    """The record once its work has ended."""
    while (record := caller.get(place, wait=_LONG_POLL_S))["status"] in ("inspecting", "running"):
        pass
    return record


def _sent_in_pieces(caller: Caller, content: bytes, *, key: str) -> str:
    """The id of a resumable upload, each piece of which begins where the service says."""
    upload = caller.create("uploads", key, json={"bytes": len(content)})
    place = f"/v1/uploads/{upload.record_id}"
    while (offset := int(caller.ask("HEAD", place).headers["Upload-Offset"])) < len(content):
        piece = content[offset : offset + _PIECE_BYTES]
        sent = caller.ask("PATCH", place, content=piece, headers={"Upload-Offset": str(offset)})
        assert sent.status_code == 204, f"{place}, at {offset}: {sent.status_code} {sent.text}"
    return upload.record_id
