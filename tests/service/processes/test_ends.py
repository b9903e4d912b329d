"""Processes behind a wall that end, asked to or not, while clients ask: what is lost, and who goes on."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.helpers.processes import until
from tests.helpers.publishing import publish
from tests.helpers.served import scaling, toiling
from tests.helpers.walled import WalledApi, walled

pytestmark = [pytest.mark.embedded, pytest.mark.slow]
ROW = {"inputs": [[1.0, 0.0]]}
ORDINARY, SLOW = "/v1/models/ordinary/predict", "/v1/models/toiling/predict"
CLIENTS = 3
OPEN = re.compile(r"^fedlas_sessions_open(?:{[^}]*})? [1-9]", re.MULTILINE)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WalledApi]:
    """One serving process, an ordinary model, and one that toils as long as a row says."""
    with walled(tmp_path_factory.mktemp("ends") / "data") as found:
        publish(found.registry, "ordinary", scaling(2))
        publish(found.registry, "toiling", toiling(4))
        assert found.client.post(ORDINARY, json=ROW).status_code == 200
        yield found


class Load:
    """Clients that ask without a pause, over connections that they keep, for predictions and for what control has."""

    def __init__(self, url: httpx.URL) -> None:
        self.lost: list[str] = []
        self.refused: set[tuple[int, str]] = set()
        self._url = url
        self._over = threading.Event()
        self._answered = [0] * CLIENTS
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self) -> None:
        """Wait until every client has had some more answers, from one process and the other."""
        before = list(self._answered)
        until(
            lambda: all(now >= then + 6 for now, then in zip(self._answered, before, strict=True)),
            what="every client is answered",
        )

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            asked = 0
            while not self._over.is_set():
                asked += 1
                try:
                    answer = client.get("/v1/models") if asked % 3 == 0 else client.post(ORDINARY, json=ROW)
                except httpx.TransportError as error:
                    self.lost.append(f"request {asked} of client {number}: {error!r}")
                    continue
                if answer.status_code != 200:
                    self.refused.add((answer.status_code, answer.headers.get("retry-after", "")))
                self._answered[number] += 1


@contextmanager
def load(api: WalledApi) -> Iterator[Load]:
    """Clients for the block."""
    found = Load(api.client.base_url)
    found.start()
    try:
        found.goes_on()
        yield found
        found.goes_on()
    finally:
        found.stop()


@pytest.mark.parametrize("name", ["serving-1", "control", "acceptor"])
@pytest.mark.parametrize(("number", "most_lost"), [(signal.SIGKILL, CLIENTS), (signal.SIGTERM, 0)])
def test_a_process_that_ends_costs_little(api: WalledApi, name: str, number: int, most_lost: int) -> None:
    """SIGKILL costs a client at most its request there, SIGTERM nothing; all others wait for the successor's answer."""
    with load(api) as clients:
        api.follows(name, api.kill(name, number))
    assert len(clients.lost) <= most_lost, clients.lost
    assert clients.refused == set()


def test_a_successor_has_the_models_of_the_process_before(api: WalledApi) -> None:
    """A successor opens its predecessor's models before anybody asks for them."""
    assert api.client.post(ORDINARY, json=ROW).status_code == 200
    api.follows("serving-1", api.kill("serving-1", signal.SIGKILL))
    until(lambda: OPEN.search(api.client.get("/metrics").text), what="the model is open")


def test_a_request_in_flight_is_answered_at_the_end(tmp_path: Path) -> None:
    """A request in flight is answered where a process has a successor, and where all end and none can connect."""
    with ThreadPoolExecutor() as threads, walled(tmp_path / "data") as api:
        publish(api.registry, "toiling", toiling(4))
        assert api.client.post(SLOW, json=ROW).status_code == 200
        toils = begun(api, threads)
        api.follows("serving-1", api.kill("serving-1", signal.SIGTERM))
        assert toils.result().status_code == 200
        assert api.client.post(SLOW, json=ROW).status_code == 200  # it does not use the processors to start any more
        last = begun(api, threads, steps=3000)
        refused = threads.submit(refused_before, last, api.port)
    assert refused.result()
    assert last.result().status_code == 200


def refused_before(last: Future[httpx.Response], port: int) -> bool:
    """True where connections are refused while this request is still being answered."""
    while not last.done():
        try:
            socket.create_connection(("127.0.0.1", port), timeout=60).close()
        except ConnectionRefusedError:
            return not last.done()
        time.sleep(0.01)
    return False


def begun(api: WalledApi, threads: ThreadPoolExecutor, *, steps: float = 1200) -> Future[httpx.Response]:
    """A prediction that takes some seconds, once it runs."""
    toils = threads.submit(httpx.post, f"{api.client.base_url}{SLOW}", json={"inputs": [[steps, 0.0]]}, timeout=60)
    stat = Path(f"/proc/{api.pid('serving-1')}/stat")
    before = cpu_ticks(stat)
    until(lambda: cpu_ticks(stat) > before + 20 or toils.done(), what="it runs")
    return toils


def cpu_ticks(stat: Path) -> int:
    """The processor time of a process, in hundredths of a second."""
    return int(stat.read_text().rpartition(")")[2].split()[11])
