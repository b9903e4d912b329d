"""A worker as operators start it, by a plain Celery command: it does the work, tells the truth, and believes nobody."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from service.queue import PermitSender
from service.registry.queues import GPU_ONLY, QUEUES
from service.registry.registry import Registry
from service.registry.repositories import Claim, Permit
from service.registry.settings import ServiceSettings
from service.registry.tables import new_id
from tests.helpers import Json, backends
from tests.helpers.answering import Asked, Told, answering
from tests.helpers.processes import descendants_of, die_with_parent, until
from tests.helpers.servers import Valkey, running
from tests.helpers.service import ROOT
from tests.helpers.work import add_dataset, add_message, state_of
from worker.app import _leave_gpu_work, app, configuration
from worker.consumer import PermitRequest, PermitTask, message_of


class CeleryWorker:
    """`celery -A worker.app worker …` as a process, and Celery's remote control beside it."""

    def __init__(self, settings: Mapping[str, str], folder: Path, *options: str, name: str = "w") -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("FEDLAS_")}
        self.node = f"{name}@{socket.gethostname()}"
        self._control = Celery("tests", broker=settings["FEDLAS_BROKER_URL"], set_as_current=False).control
        self._log_file = folder / f"{name}.log"
        with self._log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-n", self.node, *options], cwd=ROOT,
                env={**inherited, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **settings},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent(),
            )  # fmt: skip

    @property
    def log(self) -> str:
        """The log so far."""
        return self._log_file.read_text(errors="replace")

    def ask(self, command: str, **arguments: Any) -> Json:
        """The answer to a command of Celery's remote control; while the worker connects anew it hears of none."""
        for _ in range(6):
            for answer in self._control.broadcast(
                command, arguments=arguments, destination=[self.node], reply=True, limit=1, timeout=10
            ):
                found: Json = answer[self.node]
                return found
        raise AssertionError(f"{self.node} answers nothing to {command}; its log: {self.log}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def end_by_force(self) -> None:
        """For the end of a test that has failed."""
        self.process.kill()
        self.process.wait()


ROWS = b"x,label\n" + b"".join(b"%d.5,%d\n" % (i, i % 2) for i in range(200))
#: A file that takes some seconds to inspect: long enough to be found in the middle of it.
MANY_ROWS = b"x,label\n" + b"".join(b"%d.5,%d\n" % (i, i % 2) for i in range(1_200_000))


_CHANGING: dict[str, Json] = {
    "shutdown": {}, "pool_shrink": {"n": 1}, "cancel_consumer": {"queue": "inspect"}, "disable_events": {},
    "revoke": {"task_id": "x", "terminate": True}, "rate_limit": {"task_name": "fedlas.inspect", "rate_limit": "1/h"},
    "hello": {"from_node": "x", "revoked": ["x"]}, "objgraph": {},
}  # fmt: skip


@contextmanager
def receiver() -> Iterator[tuple[str, threading.Event]]:
    """The URL of a receiver of webhooks, which holds its answers back until the event is set."""
    go_on = threading.Event()

    def answer(asked: Asked) -> Told:
        go_on.wait(15)
        return 200, {}, b""

    with answering(answer) as where:
        yield f"{where}/hook", go_on
        go_on.set()


class Site:
    """A broker, a registry and one worker of the queues `inspect` and `deliver`."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack, self._folder = stack, folder
        self.broker = stack.enter_context(running(Valkey))
        place = stack.enter_context(backends.place(folder / "data")) | {"broker_url": self.broker.url()}
        self.registry = Registry.open(ServiceSettings(**place))
        stack.callback(self.registry.close)
        self.sender = PermitSender(self.broker.url())
        stack.callback(self.sender.close)
        self.registry.notify = self.sender.notify
        self.settings = {**backends.environment(place), "FEDLAS_WEBHOOK_ALLOW_PRIVATE": "1"}

    def start(self, *options: str, name: str = "w", **settings: str) -> CeleryWorker:
        """Start a worker and wait until it is ready."""
        worker = CeleryWorker({**self.settings, **settings}, self._folder, *options, name=name)
        self._stack.callback(worker.end_by_force)
        until(lambda: "worker ready" in worker.log or worker.process.poll() is not None, what="it is ready")
        return worker

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """No permit is sent for what is opened within the block."""
        notify, self.registry.notify = self.registry.notify, lambda permits: None
        try:
            yield
        finally:
            self.registry.notify = notify

    def awaits(self, record_id: str, state: str = "done") -> None:
        """Wait until the work of this record has come to this."""
        until(lambda: state_of(self.registry, record_id) == state, what=f"{record_id} is {state}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One broker and registry for all tests here."""
    with ExitStack() as stack:
        yield Site(stack, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def worker(site: Site) -> CeleryWorker:
    """A worker of the light queues; it looks for work so rarely that nothing is done here without a permit."""
    return site.start("-Q", "inspect,deliver", "-c", "2", FEDLAS_POLL_SECONDS="1000")


def test_a_plain_celery_command_does_the_work(site: Site, worker: CeleryWorker) -> None:
    """No other process and no thread of ours is needed; it is known for exactly the queues that `-Q` has named."""
    record_id = add_dataset(site.registry, ROWS)
    site.awaits(record_id)
    with site.registry.read() as unit:
        assert unit.datasets.get(record_id).status == "ready"
        assert [row.queues for row in unit.workers.known] == [["inspect", "deliver"]], worker.log
    assert {queue["name"] for queue in worker.ask("active_queues")} == {"inspect", "deliver"}
    until(lambda: f" INFO {record_id} done in " in worker.log, what="its end is logged")
    (end,) = [line for line in worker.log.splitlines() if f" INFO {record_id} done in " in line]
    assert datetime.strptime(end[:23], "%Y-%m-%d %H:%M:%S,%f")


def test_a_piece_is_shown_with_its_batch() -> None:
    """The permit may have named another record of the queue."""
    hint, piece_id, batch_id = new_id("bat"), new_id("shd"), new_id("bat")
    request = PermitRequest(message_of(app, Permit(hint, "predict", "predict")), app=app, task=PermitTask())
    request.show(Claim(piece_id, "predict_shard", token=1, attempts=1, parent_id=batch_id))
    told = request.info()
    assert (told["name"], told["args"], told["kwargs"]) == ("fedlas.predict_shard", [piece_id], {"parent_id": batch_id})
    request.show(Claim(hint, "predict", token=1, attempts=1))
    assert (request.info()["args"], request.info()["kwargs"]) == ([hint], {})


def test_a_wrong_setting_is_named_as_it_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker, and Celery's tools beside it, end with a line for each variable of the environment that is wrong."""
    for name, value in (("KEEP_JOBS_DAYS", "ninety"), ("WORKER_QUEUES", "inspect,gpu")):
        monkeypatch.setenv(f"FEDLAS_{name}", value)
    with pytest.raises(SystemExit) as ended:
        configuration()
    queues, days = sorted(str(ended.value).splitlines(), reverse=True)
    assert queues.startswith("fedlas: FEDLAS_WORKER_QUEUES: there is no queue 'gpu'; the queues are inspect, ")
    assert days.startswith("fedlas: FEDLAS_KEEP_JOBS_DAYS: ")
    assert days.endswith(", found 'ninety'")


@pytest.mark.parametrize(
    ("gpu", "computes", "left"),
    [
        (False, True, "no GPU computes here: calibrate.gpu is left"),
        (True, False, "no GPU computes here: calibrate.gpu is left"),
        (True, True, ""),
    ],
)
def test_work_for_a_gpu_is_left_where_none_computes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, gpu: bool, computes: bool, left: str
) -> None:
    """A worker whose PyTorch does not compute on its GPU takes no job that has asked for one."""
    monkeypatch.setattr("worker.app.has_gpu", lambda: gpu)
    monkeypatch.setattr("worker.app.obstacle", lambda: None if computes else "an old driver -> update it")
    celery = Celery("tests", set_as_current=False)
    celery.conf.update(configuration())
    with caplog.at_level("INFO", logger="fedlas.worker"):
        _leave_gpu_work(sender=SimpleNamespace(app=celery))
    served = set(celery.amqp.queues.consume_from)
    assert ({*QUEUES} - served) == ({GPU_ONLY} if left else set())
    assert left in caplog.text


def test_celery_tells_what_is_really_done(site: Site, worker: CeleryWorker) -> None:
    """A permit may name any record: `inspect active` and what Flower makes of events name the one whose turn it was."""
    celery = Celery("tests", broker=site.broker.url(), set_as_current=False)
    seen = celery.events.State()
    with receiver() as (slow, go_on), celery.connection_for_read() as connection:
        events = celery.events.Receiver(connection, handlers={"*": seen.event})
        listening = threading.Thread(target=events.capture, kwargs={"limit": None, "timeout": None, "wakeup": False})
        listening.start()
        with site.quietly():
            first, second = add_message(site.registry, slow), add_message(site.registry, slow)
        until(lambda: seen.workers.get(worker.node), what="its heartbeat is heard")
        site.sender.send([Permit(second, "deliver", "deliver")])
        site.awaits(first, "claimed")
        (active,) = until(lambda: worker.ask("active"), what="it says what it does")
        assert (active["name"], active["args"]) == ("fedlas.deliver", [first])
        task = until(lambda: seen.tasks.get(active["id"]), what="it is told of")
        until(lambda: task.state == "CLAIMED", what="its claim is told of")
        assert (task.name, task.args, task.record_id) == ("fedlas.deliver", repr((first,)), first)
        go_on.set()
        site.awaits(first)
        until(lambda: task.state == "SUCCESS", what="its end is told of")
        events.should_stop = True
        listening.join(30)
        site.awaits(second)  # without a permit: a freed thread looks for more


def test_slow_receivers_leave_a_thread_to_inspections(site: Site, worker: CeleryWorker) -> None:
    """Deliveries take their share of the threads; what is left of the worker inspects, and all arrive in the end."""
    with ExitStack() as stack:
        slow = [stack.enter_context(receiver()) for _ in range(3)]
        messages = [add_message(site.registry, url) for url, _ in slow]
        until(lambda: any(state_of(site.registry, one) == "claimed" for one in messages), what="one is held")
        site.awaits(add_dataset(site.registry, ROWS))
        for _, go_on in slow:
            go_on.set()
        for message in messages:
            site.awaits(message)


def put(site: Site, queue: str, **changed: Any) -> None:
    """A message as a stranger might put it into a queue."""
    record_id, came_by = changed.pop("record_id", new_id("ds")), changed.pop("came_by", queue)
    body = [[record_id], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    headers = {"lang": "py", "task": "fedlas.inspect", "id": new_id("id"), "retries": 0, "timelimit": [None, None]}
    headers |= changed.pop("headers", {})
    content = changed.pop("body", json.dumps(body).encode())
    message = {
        "body": base64.b64encode(content).decode(), "content-encoding": "utf-8", "content-type": "application/json",
        "headers": headers, "properties": {
            "delivery_tag": new_id("tag"), "body_encoding": "base64", "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": came_by},
        }, **changed,
    }  # fmt: skip
    with site.broker.client() as client:
        client.lpush(queue, json.dumps(message))


def test_what_is_no_permit_is_rejected_and_never_runs(site: Site, worker: CeleryWorker) -> None:
    """Each stranger's message costs one line of the log; the worker goes on, and its next permit is used."""
    ran = site.broker.folder / "ran"
    chained = [[new_id("ds")], {}, {"chain": [{"task": "fedlas.inspect", "args": ["x"]}], "callbacks": None}]
    before = worker.log
    put(site, "inspect", headers={"task": "os.system"})
    pickled = f"cos\nsystem\n(S'touch {ran}'\ntR.".encode()
    put(site, "inspect", body=pickled, **{"content-type": "application/x-python-serialize"})
    put(site, "inspect", record_id="../../etc/passwd")
    put(site, "inspect", record_id=new_id("job"))
    put(site, "inspect", body=json.dumps([[new_id("ds"), "more"], {}, {}]).encode())
    put(site, "inspect", body=json.dumps([[new_id("ds")], {"more": 1}, {}]).encode())
    put(site, "inspect", body=json.dumps(chained).encode())
    put(site, "inspect", headers={"eta": "2100-01-01T00:00:00+00:00"})
    put(site, "inspect", came_by="calibrate.gpu")
    # Permits, of which Celery sees no more than that.
    put(site, "inspect", headers={"timelimit": [None], "stamped_headers": 5})
    other = {"task": "fedlas.deliver", "args": [new_id("msg")], "kwargs": {}, "options": {"queue": "stranger"}}
    called = b'[["%s"], {}, {}]' % new_id("ds").encode()
    put(site, "inspect", headers={"callbacks": [other], "errbacks": [other]}, body=called)
    with site.broker.client() as client:
        client.lpush("inspect", "no message at all")
        client.lpush("inspect", "[]")
    site.awaits(add_dataset(site.registry, ROWS))
    until(lambda: worker.log.count("was rejected") >= 9, what="all are rejected")
    until(lambda: worker.log.count("was thrown away") >= 2, what="both are thrown away")
    said = worker.log.removeprefix(before)
    assert (said.count("was rejected"), said.count("was thrown away"), "Traceback" in said) == (9, 2, False), said
    assert (ran.exists(), worker.process.poll()) == (False, None)
    with site.broker.client() as client:
        assert client.llen("stranger") == 0


@pytest.mark.slow
def test_remote_control_only_reads(site: Site, worker: CeleryWorker) -> None:
    """`inspect ping` is answered; what would change a worker is refused, and changes nothing."""
    assert worker.ask("ping") == {"ok": "pong"}
    for command, arguments in _CHANGING.items():
        assert "is refused" in worker.ask(command, **arguments)["error"], command
    assert worker.ask("stats")["pool"]["max-concurrency"] == 2
    assert {queue["name"] for queue in worker.ask("active_queues")} >= {"inspect", "deliver"}
    assert worker.process.poll() is None


@pytest.mark.slow
def test_a_silent_broker_delays_nothing(site: Site) -> None:
    """Work is found while the broker stands still; SIGTERM then hands back what is being done, and the worker ends."""
    lonely = site.start("-Q", "inspect", "-c", "1", name="lonely", FEDLAS_POLL_SECONDS="0.2")
    assert site.broker.process is not None
    with site.quietly():
        site.broker.process.send_signal(signal.SIGSTOP)
        try:
            site.awaits(add_dataset(site.registry, ROWS))
            until(lambda: not descendants_of(lonely.process.pid), what="the child before has ended")
            long = add_dataset(site.registry, MANY_ROWS)
            # The signal may be heard seconds late if the worker waits for the broker: no child must end before.
            stopped: set[int] = set()
            while not stopped or descendants_of(lonely.process.pid) - stopped:
                for child in until(lambda: descendants_of(lonely.process.pid) - stopped, what="a child has begun"):
                    with suppress(ProcessLookupError):  # a helper that has just ended
                        os.kill(child, signal.SIGSTOP)
                    stopped.add(child)
            site.awaits(long, "claimed")
            assert lonely.stop() == 0
            with site.registry.read() as unit:
                work = unit.work.of(long)
            assert (work.state, work.attempts) == ("waiting", 0), lonely.log
        finally:
            site.broker.process.send_signal(signal.SIGCONT)
