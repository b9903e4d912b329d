"""Whoever waits is told what for, once for each reason."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedlas.client import AsyncClient, Client, errors
from fedlas.client.records.events import StatusChanged
from fedlas.client.waiting import warn_of

NOBODY = "no worker takes this; there is none that inspects uploads"


@pytest.fixture
def ordered(silent: Client, files: Path) -> Iterator[tuple[str, str]]:
    """A model, and a job that waits for its inspection."""
    model = silent.models.upload(files / "digits.onnx", wait=False)
    dataset = silent.datasets.upload(files / "digits.npz", wait=False)
    job = silent.jobs.create(model, dataset)
    yield model.id, job.id
    job.cancel()


def test_a_long_poll_warns_once(silent: Client, ordered: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """The sentence of the record goes to the client's log; a second wait for the same record does not repeat it."""
    model, job = ordered
    for _ in range(2):
        with pytest.raises(errors.WaitTimeout):
            silent.models.wait(model, timeout=0)
        with pytest.raises(errors.WaitTimeout):
            silent.jobs.wait(job, timeout=0)
    assert caplog.record_tuples == [("fedlas.client", logging.WARNING, f"{one}: {NOBODY}") for one in ordered]


def test_a_stream_on_which_nothing_happens_warns(silent: Client, ordered: tuple[str, str]) -> None:
    """Who follows events learns what the job waits for as soon as the stream is open, by a callback of its own."""
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
            await client.jobs.wait(ordered[1], timeout=0)
    assert told == [f"{ordered[1]}: {NOBODY}"]


def test_only_another_reason_is_told_again() -> None:
    """More seconds are none; what has gone on meanwhile, and is kept again, is told again."""
    told: list[str] = []
    known: dict[str, str] = {}
    silent = "1 of 2 has not been heard of for {}"
    for sentence in (silent.format("40 s"), silent.format("290 s"), silent.format("5 min"), "2 of 2", None, "2 of 2"):
        warn_of(sentence, "job_1", known, told.append)
    assert told == [f"job_1: {silent.format('40 s')}", "job_1: 2 of 2", "job_1: 2 of 2"]
    warn_of(None, "job_1", known, told.append)
    assert known == {}
