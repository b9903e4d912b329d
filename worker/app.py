"""The composition root of the worker: settings in, a Celery worker that runs until it is told to stop."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable

from celery import Celery
from celery.platforms import SecurityWarning
from celery.signals import setup_logging, worker_ready, worker_shutting_down
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from service.registry.contract import RING, WORK_KINDS
from service.registry.unit_of_work import Registry
from worker import confinement
from worker.reaper import reap
from worker.sandbox import clear_left_overs, worker_name
from worker.settings import WorkerSettings
from worker.tasks import Worker

_LOG = logging.getLogger("fedlas.worker")

Ring = Callable[[str], None]


def make_celery(settings: WorkerSettings) -> Celery:
    """The consumer's side of the queue: messages are acknowledged early, since the row is the truth."""
    app = Celery("fedlas", broker=settings.resolved_broker_url)
    app.conf.update(
        task_acks_late=False,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"socket_timeout": 30, "socket_keepalive": True},
        task_create_missing_queues=True,
    )
    return app


def ringer(app: Celery) -> Ring:
    """A function that tells the workers about a record; a broker that is away is forgiven."""

    def ring(record_id: str) -> None:
        queue = WORK_KINDS[record_id.partition("_")[0]]
        try:
            app.send_task(RING, args=[record_id], queue=queue, retry=False, ignore_result=True)
        except (OperationalError, RedisError, OSError) as error:
            _LOG.warning("the broker is away, %s is rung later: %s", record_id, error)

    return ring


def main(settings: WorkerSettings) -> None:
    """Run until SIGTERM or SIGINT; unfinished work is handed back."""
    _prepare_log()
    registry = Registry.open(settings)
    _await_tables(registry)
    app = make_celery(settings)
    ring = ringer(app)
    name = worker_name()
    clear_left_overs(settings.work_dir)
    _tell_protection()
    worker = Worker(settings, registry, name=name, ring=ring)
    app.task(worker.handle, name=RING)
    _follow(worker, registry, settings, ring)
    queues = ",".join(sorted(set(WORK_KINDS.values())))
    threads = str(settings.worker_threads)
    app.worker_main(
        ["--quiet", "worker", "--pool=threads", f"--concurrency={threads}", f"--queues={queues}", f"--hostname={name}",
         "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING"]
    )  # fmt: skip


def _prepare_log() -> None:
    """One line per event of ours; the machinery speaks only when something is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stdout)
    _LOG.setLevel(logging.INFO)
    # Uploads are opened in a child of their own; Celery's general warning about root repeats at every start.
    warnings.filterwarnings("ignore", category=SecurityWarning)


def _tell_protection() -> None:
    """Say at every start what uploads are opened with, and warn of each protection that this machine lacks."""
    report = confinement.status()
    _LOG.info("uploads are opened with: %s", "; ".join(f"{name} {what}" for name, what in report.items()))
    for sentence in confinement.warnings(report):
        _LOG.warning("%s", sentence)


def _follow(worker: Worker, registry: Registry, settings: WorkerSettings, ring: Ring) -> None:
    """Tie the worker to Celery's start and stop."""

    def keep_logging(**_: object) -> None:
        """A receiver of this signal keeps Celery from changing the log."""

    def on_ready(**_: object) -> None:
        _LOG.info("worker ready: %d at once, %d of them jobs", settings.worker_threads, settings.worker_jobs)
        threading.Thread(target=reap, args=(registry, settings, ring, worker.stopping), daemon=True).start()

    def on_shutdown(**_: object) -> None:
        worker.stopping.set()

    setup_logging.connect(keep_logging, weak=False)
    worker_ready.connect(on_ready, weak=False)
    worker_shutting_down.connect(on_shutdown, weak=False)


def _await_tables(registry: Registry) -> None:
    """Only the service migrates; a worker that starts first waits for it."""
    while not registry.is_current():
        _LOG.info("waiting for the service to prepare the database")
        time.sleep(1)
