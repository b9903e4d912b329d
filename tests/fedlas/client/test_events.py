"""Work that is waited for: streams are read as the standard says, and a caller who waits learns what for, once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedlas.client import AsyncClient, Client, errors
from fedlas.client.configuration import Configuration
from fedlas.client.events import EventReader
from fedlas.client.transport import Requests
from fedlas.contract.events import StatusChanged

NOBODY = "no worker takes this yet; there is none that inspects uploads"


@pytest.fixture
def ordered(silent: Client, files: Path) -> Iterator[tuple[str, str]]:
    """A model, and a job that waits for its inspection."""
    model = silent.models.upload(files / "digits.onnx", wait=False)
    job = silent.jobs.create(model, silent.datasets.upload(files / "digits.npz", wait=False))
    yield model.id, job.id
    job.cancel()


def test_a_long_poll_warns_once(silent: Client, ordered: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """The sentence of the record goes to the client's log; a second wait for the same record does not repeat it."""
    model, job = ordered
    for _ in range(2):
        with pytest.raises(errors.WaitTimeout):
            silent.models.wait(model, wait_timeout=0)
        with pytest.raises(errors.WaitTimeout):
            silent.jobs.wait(job, wait_timeout=0)
    assert caplog.record_tuples == [("fedlas.client", logging.WARNING, f"{one}: {NOBODY}") for one in ordered]


def test_a_stream_on_which_nothing_happens_warns(silent: Client, ordered: tuple[str, str]) -> None:
    """Followers of events learn what the job waits for as soon as the stream is open, by a callback of its own."""
    told: list[str] = []
    with Client(silent.url, on_warning=told.append) as client:
        event = next(iter(client.jobs.events(ordered[1])))
        assert isinstance(event.data, StatusChanged)
        assert event.data.status == "queued"
    assert told == [f"{ordered[1]}: {NOBODY}"]


@pytest.mark.anyio
async def test_code_that_awaits_is_told_the_same(silent: Client, ordered: tuple[str, str]) -> None:
    """The client for code that awaits has the same callback."""
    told: list[str] = []
    async with AsyncClient(silent.url, on_warning=told.append) as client:
        with pytest.raises(errors.WaitTimeout):
            await client.wait(ordered[1], wait_timeout=0)
    assert told == [f"{ordered[1]}: {NOBODY}"]


def test_only_another_reason_is_told_again() -> None:
    """A higher number of seconds is no other reason; a wait that has ended and begins again is reported again."""
    told: list[str] = []
    requests = Requests(Configuration("http://test"), timeout=1.0, max_retries=0, given=None, on_warning=told.append)
    silent = "1 of 2 has not been heard of for {}"
    for sentence in (silent.format("40 s"), silent.format("290 s"), silent.format("5 min"), "2 of 2", None, "2 of 2"):
        requests.warn_of(sentence, "job_1")
    assert told == [f"job_1: {silent.format('40 s')}", "job_1: 2 of 2", "job_1: 2 of 2"]


#: Characters that Python takes for line ends, and that end no line of a stream.
TEXT = "a\u2028b\u2029c\x85d\x0be\x0cf"


def stream(end: str) -> str:
    """Comments, fields that do not matter, and two events of which one comes in two lines of data."""
    one = json.dumps({"id": 1, "type": "odd", "at": "2026-05-04T10:00:00Z", "data": {"text": TEXT}}, ensure_ascii=False)
    two = '{"id":2,"type":"stage",', '"at":"2026-05-04T10:00:00Z","data":{"stage":"training"}}'
    lines = [": here", "", "id: 1", "event: odd", f"data: {one}", ""]
    lines += [f"data:{two[0]}", f"data: {two[1]}"]
    return end.join([*lines, "", ""])


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_come_through_however_they_are_cut(end: str, size: int) -> None:
    """Events may come in pieces of any size, with any end of line, and with characters that end a line elsewhere."""
    reader, text = EventReader(), stream(end)
    events = [event for at in range(0, len(text), size) for event in reader.feed(text[at : at + size])]
    events += reader.feed("\n")
    assert [event.id for event in events] == [1, 2]
    assert events[0].raw["data"] == {"text": TEXT}
