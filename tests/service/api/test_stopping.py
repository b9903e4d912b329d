"""The API process at its end: no answer under way is cut off, and no waiting request delays it."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.helpers.backends import place
from tests.helpers.live_api import SlowUpload, following, listening, live, order

CONTENT = b"0123456789" * 100


@pytest.mark.slow
def test_an_upload_may_finish(tmp_path: Path) -> None:
    """An upload that is arriving when the signal comes is taken to its end; new connections are not accepted."""
    with place(tmp_path / "data") as where, live(where) as (api,):
        slow = SlowUpload(api.port, CONTENT)
        slow.send(500)
        assert httpx.get(f"{api.url}/healthz").status_code == 200
        api.signal()
        time.sleep(2.5)  # longer than idle connections are kept
        assert api.process.poll() is None
        status, record = slow.finish()
        api.ended(seconds=60)
        assert (status, record["bytes"]) == (201, len(CONTENT))


def test_those_who_wait_are_woken(tmp_path: Path) -> None:
    """A long poll is answered and a stream ends when the signal comes, long before their time."""
    with place(tmp_path / "data") as where, live(where) as (api,):
        job = order(api.url)
        told: list[int] = []
        with listening(api.url, job) as heard:
            assert following(heard)["id"] == 1

            def poll() -> None:
                told.append(httpx.get(f"{api.url}/v1/jobs/{job}?wait=60", timeout=90).status_code)

            poller = threading.Thread(target=poll)
            poller.start()
            time.sleep(0.5)
            api.signal()
            assert list(heard) == []
            poller.join()
        api.ended(seconds=60)
        assert told == [200], "the poll's own time is longer than the API's grace"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it(tmp_path: Path, number: int) -> None:
    """A second signal does not wait for an endless upload."""
    with place(tmp_path / "data") as where, live(where, grace_seconds=300) as (api,):
        slow = SlowUpload(api.port, CONTENT)
        slow.send(500)
        assert httpx.get(f"{api.url}/healthz").status_code == 200
        api.signal()
        time.sleep(0.5)
        assert api.process.poll() is None
        api.signal(number)
        assert api.process.wait(60) in (0, -signal.SIGTERM, -signal.SIGINT, 1, 130)
        assert slow.is_cut_off()
        slow.go_away()


@pytest.mark.slow
def test_grace_ends(tmp_path: Path) -> None:
    """An upload that does not end is cut off when the grace is over."""
    with place(tmp_path / "data") as where, live(where, grace_seconds=1) as (api,):
        slow = SlowUpload(api.port, CONTENT)
        slow.send(500)
        assert httpx.get(f"{api.url}/healthz").status_code == 200
        api.signal()
        api.ended(seconds=60)
        assert slow.is_cut_off()
        slow.go_away()
