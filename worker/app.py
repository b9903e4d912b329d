"""The composition root of the worker: settings in, a Celery worker that runs until it is stopped.

A Celery message is a wake-up: it makes a thread of the work pool look for work. The pool has its own threads, so that
a broker that is away, silent or emptied delays nothing by more than a second.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from celery import Celery
from celery.platforms import SecurityWarning
from celery.signals import setup_logging
from celery.worker import WorkController
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from service.registry.contract import PLAN, WAKE_UP, WORK_KINDS
from service.registry.errors import Unavailable
from service.registry.notifier import Notifier
from service.registry.registry import Registry
from service.registry.repositories import Permit
from worker.outside.broker_check import BrokerCheck
from worker.outside.cleanup import run_cleanup
from worker.outside.concurrency import WorkPool
from worker.outside.recovery import Reaper
from worker.outside.supervisor import Supervisor
from worker.sandbox import confinement
from worker.sandbox.process import remove_stale_folders, worker_name
from worker.settings import WorkerSettings

_LOG = logging.getLogger("fedlas.worker")

_PING = "fedlas.ping"
_BROKER_TIMEOUT_S, _STOP_S, _TICK_S = 2.0, 15.0, 0.2
#: The exit code of a worker that wants to be started again.
_RESTART = 75


def make_celery(settings: WorkerSettings, name: str) -> Celery:
    """The consumer's side of the queue: messages are hints, acknowledged as they come."""
    app = Celery("fedlas", broker=settings.resolved_broker_url)
    app.conf.update(
        task_acks_late=False,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"socket_timeout": 30, "socket_keepalive": True},
        task_queues=[Queue(queue) for queue in (*settings.resolved_queues, _own_queue(name))],
    )
    return app


def make_producer(settings: WorkerSettings) -> Celery:
    """The producer's side: a broker that is away fails soon, and is not waited for."""
    app = Celery("fedlas", broker=settings.resolved_broker_url, set_as_current=False)
    timeouts = {"socket_timeout": _BROKER_TIMEOUT_S, "socket_connect_timeout": _BROKER_TIMEOUT_S}
    app.conf.update(
        broker_transport_options={**timeouts, "max_retries": 0}, broker_connection_timeout=_BROKER_TIMEOUT_S
    )
    return app


def _own_queue(name: str) -> str:
    return f"alive.{name}"


def sender(app: Celery) -> Callable[[Permit], None]:
    """A function that sends a wake-up; a broker that is away is logged and ignored."""

    def send(wake_up: Permit) -> None:
        try:
            app.send_task(WAKE_UP, args=[wake_up.record_id], queue=wake_up.queue, retry=False, ignore_result=True)
        except (OperationalError, RedisError, OSError) as error:
            _LOG.warning("the broker is away, %s is found without it: %s", wake_up.record_id, error)

    return send


def main(settings: WorkerSettings) -> int:
    """Run until SIGTERM or SIGINT; unfinished work is handed back. Returns the exit code."""
    _prepare_log()
    asked = _on_signals()
    stop = threading.Event()
    registry = Registry.open(settings)
    if not _await_tables(registry, asked):
        return 0
    name = worker_name()
    producer = make_producer(settings)
    notifier = Notifier(sender(producer))
    registry.notify = notifier.notify
    remove_stale_folders(settings.work_dir)
    supervisor = Supervisor(
        settings, registry, name=name, stopping=stop, expected=_log_protections(settings.work_dir / name)
    )
    pool = WorkPool(supervisor, registry, settings)
    reaper = Reaper(registry, settings, supervisor, pool)
    broker_check = BrokerCheck(lambda: _ping(producer, name), settings.data_dir.absolute() / "run" / f"{name}.alive")
    reaper.sweep()  # registered before it takes work that others might take
    pool.start()
    _in_thread(reaper.run)
    _in_thread(lambda: run_cleanup(registry, settings, stop))
    _in_thread(lambda: _listen(make_celery(settings, name), pool, broker_check, stop, name))
    _in_thread(lambda: _check_broker(broker_check, stop))
    _LOG.info("worker ready, serving %s", ", ".join(settings.resolved_queues))
    code = _run_until_stopped(broker_check, pool, asked)
    stop.set()
    pool.join(_STOP_S)
    notifier.close()
    leaving = [_in_thread(reaper.deregister), _in_thread(lambda: _forget_queue(producer, name))]
    for thread in leaving:  # a database or broker that hangs does not delay the exit
        thread.join(_BROKER_TIMEOUT_S)
    broker_check.close()
    return code


def _run_until_stopped(broker_check: BrokerCheck, pool: WorkPool, asked: list[int]) -> int:
    """Until a signal asks to stop, or until the broker check fails and the pool is idle; returns the exit code."""
    while not asked:
        time.sleep(_TICK_S)
        if broker_check.failed and pool.idle:
            _LOG.error("messages are sent, but none arrives here any more: restarting")
            return _RESTART
    return 0


def _check_broker(broker_check: BrokerCheck, stop: threading.Event) -> None:
    """In a thread of its own: a call to the broker may hang."""
    while not stop.wait(1.0):
        broker_check.check()


def _listen(app: Celery, pool: WorkPool, broker_check: BrokerCheck, stop: threading.Event, name: str) -> None:
    """Consume messages; a consumer that fails is replaced by another."""

    @app.task(name=WAKE_UP)  # type: ignore[untyped-decorator]
    def wake_up(record_id: str) -> None:
        pool.wake(_kinds_of(record_id))

    @app.task(name=_PING)  # type: ignore[untyped-decorator]
    def ping() -> None:
        broker_check.received()

    while not stop.is_set():
        try:
            # In this thread, and each message is done at once: it only wakes the pool.
            consumer = WorkController(
                app=app,
                hostname=name,
                pool_cls="solo",
                quiet=True,
                loglevel="WARNING",
                without_gossip=True,
                without_mingle=True,
                without_heartbeat=True,
            )
            consumer.start()
        except Exception:
            _LOG.exception("the consumer of messages failed; work is found without it")
        stop.wait(1.0)


def _kinds_of(record_id: str) -> list[str]:
    kind = WORK_KINDS.get(record_id.partition("_")[0], "")
    return [kind, PLAN] if kind == WORK_KINDS["job"] else [kind]


def _ping(app: Celery, name: str) -> None:
    app.send_task(_PING, queue=_own_queue(name), retry=False, ignore_result=True, expires=60)


def _forget_queue(app: Celery, name: str) -> None:
    """Delete this worker's queue: no other process reads it."""
    with suppress(OperationalError, RedisError, OSError), app.connection_for_write() as connection:
        connection.default_channel.queue_delete(_own_queue(name))


def _in_thread(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def _on_signals() -> list[int]:
    """Filled when a signal asks to stop; an event would be locked by the very thread that is interrupted."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: asked.append(number))
    return asked


def _prepare_log() -> None:
    """One line per event of the worker; libraries log warnings only."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stdout)
    _LOG.setLevel(logging.INFO)
    # Uploads are opened in a child of their own; Celery's general warning about root repeats at every start.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    setup_logging.connect(_keep_logging, weak=False)


def _keep_logging(**_: object) -> None:
    """A receiver of this signal keeps Celery from changing the log."""


def _log_protections(place: Path) -> list[str]:
    """Log what uploads are opened with, and warn of each protection that this machine lacks.

    Returns the protections that hold where this worker's children have their folders; no child begins without them.
    """
    place.mkdir(parents=True, exist_ok=True)
    report = confinement.status(place)
    _LOG.info("uploads are opened with: %s", "; ".join(f"{name} {what}" for name, what in report.items()))
    for sentence in confinement.warnings(report):
        _LOG.warning("%s", sentence)
    return confinement.controls_on(report)


def _await_tables(registry: Registry, asked: list[int]) -> bool:
    """Only the service migrates; a worker that starts first waits for it. False if a signal asks to stop meanwhile."""
    while not asked:
        try:
            if registry.is_current():
                return True
            _LOG.info("waiting for the service to prepare the database")
        except Unavailable as error:
            _LOG.warning("waiting for the database: %s", error)
        time.sleep(1.0)
    return False
