"""A run that does not end costs its process, and the second time its model the service; no other loses an answer."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import httpx
import pytest

from tests.helpers.processes import until
from tests.helpers.publishing import publish
from tests.helpers.served import hungry, scaling, toiling
from tests.helpers.visitor import Visitor
from tests.helpers.walled import WalledApi, walled

pytestmark = [pytest.mark.embedded, pytest.mark.slow]
MIB = 1024**2


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WalledApi]:
    """One process for all models: one that toils as long as a row says, one that takes memory so, and an ordinary."""
    data_dir = tmp_path_factory.mktemp("ended") / "data"
    with walled(data_dir, predict_timeout_seconds=1.5, api_memory_bytes=2048 * MIB) as found:
        publish(found.registry, "toiling", toiling(1))
        publish(found.registry, "hungry", hungry())
        publish(found.registry, "ordinary", scaling(2))
        yield found


def ask(api: WalledApi, name: str, value: float) -> tuple[int, str]:
    """The status and the code of an answer, each over a connection of its own."""
    with httpx.Client(base_url=api.client.base_url, timeout=60) as client:
        answer = client.post(f"/v1/models/{name}/predict", json={"inputs": [[value, 0.0]]})
        return answer.status_code, answer.json().get("code", "")


def pid(api: WalledApi, name: str) -> int | None:
    """The id of a process that may not be there."""
    with suppress(FileNotFoundError):
        return int((api.settings.data_dir / "run" / f"{name}.pid").read_text())
    return None


def hang(api: WalledApi, name: str) -> None:
    """Ask for what does not end in time until its process has ended; a busy machine may end it in time."""
    before = pid(api, name)
    for _ in range(10):
        # On a busy machine the one before is still being ended when it is asked for again.
        assert ask(api, "toiling", 6000) in ((504, "deadline_exceeded"), (503, "unavailable"))
        given_up = time.monotonic() + 10
        while time.monotonic() < given_up:
            if pid(api, name) != before:
                return
            time.sleep(0.05)
    raise AssertionError(f"{name} is not ended")


def test_a_run_that_does_not_end_costs_its_process_and_its_model(api: WalledApi) -> None:
    """The process is followed, and after the second time the model is suspended; visitors of another lose no answer."""
    assert [ask(api, name, 1)[0] for name in ("toiling", "ordinary")] == [200, 200]
    control, together = pid(api, "control"), pid(api, "serving-1")
    with closing(Visitor(api)) as visitor:
        for _ in range(2):
            until(lambda: ask(api, "toiling", 1)[0] == 200, what="it is answered again")
            hang(api, "serving-1")
        until(lambda: ask(api, "toiling", 1) == (503, "model_suspended"), what="it is suspended")
    assert (pid(api, "control"), pid(api, "serving-1") != together) == (control, True)
    assert set(visitor.answers) == {200}, visitor.answers


def test_memory_is_limited_in_each_process(api: WalledApi) -> None:
    """A row that asks for more than its process may have is refused, and nobody ends."""
    before = [pid(api, name) for name in ("control", "serving-1", "acceptor")]
    assert ask(api, "hungry", 1)[0] == 200
    assert ask(api, "hungry", 6e8) == (503, "out_of_memory")
    assert ask(api, "ordinary", 1)[0] == 200
    assert [pid(api, name) for name in ("control", "serving-1", "acceptor")] == before


def counted(api: WalledApi) -> float:
    """Answers of the ordinary model, over all processes."""
    lines = api.client.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("fedlas_requests_total") and "ordinary" in line]
    return sum(float(line.split()[-1]) for line in found)


def test_a_process_that_is_asked_to_stop_tells_what_it_has_counted_last(api: WalledApi) -> None:
    """Counts are sent once a second, and at the end."""
    until(lambda: ask(api, "ordinary", 1)[0] == 200, what="it answers")
    before = counted(api)
    assert [ask(api, "ordinary", 1)[0] for _ in range(3)] == [200] * 3
    api.follows("serving-1", api.kill("serving-1", signal.SIGTERM))
    until(lambda: counted(api) >= before + 3, what="the last answers are counted")
