"""An API that hangs, or must be ended with a run of its, is there again within seconds; its memory is limited."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from service.heartbeat import Pulse
from service.processes.child_process import ChildProcess
from service.processes.standalone import running
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings
from tests.helpers.live_api import LiveApi
from tests.helpers.processes import free_port, until
from tests.helpers.publishing import publish
from tests.helpers.served import hungry, scaling, toiling

pytestmark = [pytest.mark.embedded, pytest.mark.slow]
MIB = 1024**2


class Supervised:
    """`fedlas serve` in this process: its children are other processes, and it looks after them in a thread."""

    def __init__(self, settings: ServiceSettings, children: list[ChildProcess]) -> None:
        self._settings, self._children = settings, children
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_after)
        self._thread.start()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{settings.port}", timeout=120)
        until(self.answers, what="the API answers")

    @property
    def api(self) -> ChildProcess:
        return next(child for child in self._children if child.name == "api")

    @property
    def pid(self) -> int:
        assert self.api.process is not None
        return self.api.process.pid

    def answers(self) -> bool:
        with suppress(httpx.TransportError):
            return self.client.get("/healthz").status_code == 200
        return False

    def predict(self, name: str, value: float, **headers: str) -> httpx.Response:
        return self.client.post(f"/v1/models/{name}/predict", json={"inputs": [[value, 0.0]]}, headers=headers)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self.client.close()

    def _look_after(self) -> None:
        while not self._over.wait(0.05):
            for child in self._children:
                child.ensure_running()


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    """A service with a model that toils as long as a row says, and an ordinary one."""
    settings = ServiceSettings(data_dir=tmp_path_factory.mktemp("hanging") / "data", port=free_port(), wall="off")
    with running(settings) as children:
        found = Supervised(settings, children)
        with closing(Registry.open(settings)) as registry:
            publish(registry, "toiling", toiling(1))
            publish(registry, "ordinary", scaling(2))
        assert found.client.get("/v1/names").status_code == 200  # what it shows answers
        yield found
        found.stop()


def test_a_run_that_does_not_end_ends_its_process(supervised: Supervised, capsys: pytest.CaptureFixture[str]) -> None:
    """After its 504 the API is another process, the model is out of service, and another model answers as before."""
    before = supervised.pid
    assert supervised.predict("toiling", 1).status_code == 200  # it is open: what takes long from now on is its run
    answer = supervised.predict("toiling", 10_000, **{"X-Request-Timeout": "5"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    until(lambda: supervised.pid != before and supervised.answers(), what="another API answers")
    answer = supervised.predict("toiling", 1)
    assert (answer.status_code, answer.json()["code"]) == (503, "model_suspended")
    assert "out of service for another 10 minutes" in answer.json()["detail"]
    assert supervised.predict("ordinary", 1).json()["predictions"][0]["label"] == "a"
    assert "does not end" in capsys.readouterr().out


def test_a_stopped_api_is_ended_and_followed(supervised: Supervised, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGSTOP: connections would wait for ever; soon they are answered by another process."""
    before = supervised.pid
    os.kill(before, signal.SIGSTOP)
    until(lambda: supervised.pid != before and supervised.answers(), what="another API answers")
    assert "hangs: its event loop has stood still for 5 s" in capsys.readouterr().out


def test_a_full_queue_that_is_not_taken_from_is_seen() -> None:
    """A process that accepts no connection is unhealthy in spite of its heartbeat, unless its connections are taken."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=1) as listener,
        closing(Pulse(listener, hung_seconds=0.3)) as pulse,
    ):

        def trouble_within(seconds: float) -> str | None:
            began = time.monotonic()
            while time.monotonic() - began < seconds:
                os.write(pulse.write, b".")
                if (trouble := pulse.trouble()) is not None:
                    return trouble
                time.sleep(0.02)
            return None

        assert trouble_within(0.5) is None
        waiting = [socket.create_connection(listener.getsockname()) for _ in range(2)]
        assert "taken no connection" in str(trouble_within(2))
        pulse.started()
        listener.accept()[0].close()
        assert trouble_within(0.5) is None
        for one in waiting:
            one.close()


def test_a_process_that_does_not_begin_is_seen() -> None:
    """Where its first beat is expected in a time; one that waits for others has as long as it needs."""
    with (
        closing(Pulse(None, hung_seconds=60, first_seconds=0.2)) as pulse,
        closing(Pulse(None, hung_seconds=60)) as patient,
    ):
        pulse.started()
        until(lambda: pulse.trouble() is not None, what="it should have begun")
        assert pulse.trouble() == "it has not begun within 0 s"
        assert patient.trouble() is None
        os.write(pulse.write, b".")
        assert pulse.trouble() is None


def test_who_was_frozen_together_with_it_says_nothing() -> None:
    """A pause of the whole machine, or of a container, is no hanging; silence after it is."""
    with socket.create_server(("127.0.0.1", 0)) as listener, closing(Pulse(listener, hung_seconds=0.3)) as pulse:
        os.write(pulse.write, b".")
        assert pulse.trouble() is None
        time.sleep(1.2)
        assert pulse.trouble() is None
        until(pulse.trouble, what="the silence is noticed")


def test_memory_is_limited_and_given_back(tmp_path: Path) -> None:
    """A row that asks for more than there is gets 503, and one that takes 200 MB leaves nothing behind."""
    place = {"data_dir": tmp_path / "data", "api_memory_bytes": 1024 * MIB}
    settings = ServiceSettings(**place)
    with closing(Registry.open(settings)) as registry, socket.create_server(("127.0.0.1", 0)) as listener:
        registry.migrate()
        publish(registry, "hungry", hungry())
        api = LiveApi(place, listener)
        try:
            api.until_ready()
            with httpx.Client(base_url=api.url, timeout=120) as client:

                def ask(value: float) -> httpx.Response:
                    return client.post("/v1/models/hungry/predict", json={"inputs": [[value, 0.0]]})

                assert ask(1).status_code == 200
                before = resident(api.process.pid)
                assert (ask(4e8).status_code, ask(4e8).json()["code"]) == (503, "out_of_memory")
                assert ask(5e7).status_code == 200
                until(lambda: resident(api.process.pid) < before + 64 * MIB, what="memory is given back")
                assert ask(1).status_code == 200
        finally:
            api.kill()


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
