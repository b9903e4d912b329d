"""The bootstep that makes Celery's worker one of ours: the registry is opened before a permit is taken in, and closed
after the last one was used.

Around the permits run threads: the reaper and the permit watch, which find what waits, and the cleanup. Celery's own
threads do the work, and none of these does. Remote control is for reading only: whoever reaches the broker can ask
workers what they do, and change nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from celery.bootsteps import StartStopStep
from celery.signals import worker_shutting_down
from celery.worker import WorkController, state
from celery.worker.control import Panel

from fedlas.extras import has_gpu
from service.confinement.confinement import controls_on
from service.process_memory import memory_bytes
from service.registry.errors import Unavailable
from service.registry.queues import ANY_DEVICE, GPU_ONLY, OPENING
from service.registry.registry import Registry
from service.registry.settings import WorkerSettings
from worker.consumer import PermitTask
from worker.outside import metrics
from worker.outside.cards import Cards, obstacle, visible_cards
from worker.outside.kinds.uploads import try_sample
from worker.outside.metrics import serve_metrics
from worker.outside.permits import Broker, Permits, PermitWatch, Places
from worker.outside.recovery import Reaper, run_cleanup
from worker.outside.supervisor import Stopping, Supervisor
from worker.sandbox import confinement
from worker.sandbox.process import remove_stale_folders, worker_name

_LOG = logging.getLogger("fedlas.worker")

#: Flower asks for events, which are always on. What else only reads writes files, or takes long.
_PERMITTED = frozenset(
    (
        *("active", "active_queues", "clock", "conf", "ping", "query_task", "registered", "report", "reserved"),
        *("revoked", "scheduled", "stats", "dump_active", "dump_conf", "dump_reserved", "dump_revoked"),
        *("dump_schedule", "dump_tasks", "enable_events", "heartbeat"),
    )
)
#: How long handing work back may take, then telling database and broker of the end, and then Celery's own end.
_STOP_S = 12.0
_LEAVING_S = 2.0
_EXIT_S = 3.0
#: A worker that cannot open its sample tries again: memory may come free, or a library be installed.
_AGAIN_S = 30.0


def _refused(command: str) -> Callable[..., dict[str, str]]:
    def refuse(state: object, **arguments: object) -> dict[str, str]:
        _LOG.warning("remote control: %s was refused", command)
        return {"error": f"{command} is refused: workers are controlled by their settings and by signals"}

    return refuse


class PermitWork(StartStopStep):  # type: ignore[misc]
    """Everything that a permit needs; started after the threads that use permits, and stopped before them."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: WorkController, **_: object) -> None:
        for command in set(Panel.data) - _PERMITTED:
            Panel.data[command] = _refused(command)
        self._stopping = threading.Event()
        self._leaving, self._turn = ExitStack(), threading.Lock()

    def start(self, worker: WorkController) -> None:
        """Begin; Celery's consumer, which starts after this, finds everything prepared."""
        settings = WorkerSettings()
        queues = list(worker.app.amqp.queues.consume_from)
        _set_on_shutdown(self._stopping)
        registry = Registry.open(settings)
        _await_tables(registry)
        name = worker_name()
        remove_stale_folders(settings.work_dir)
        expected = _log_protections(settings.work_dir / name)
        supervisor = Supervisor(settings, registry, name=name, stopping=self._stopping, expected=expected)
        trains = bool({ANY_DEVICE, GPU_ONLY} & {*queues})
        if reason := obstacle() if trains and has_gpu() else None:
            _LOG.warning("calibrations do not run on the GPU of this machine: %s", reason)
        found = visible_cards() if trains and reason is None else []
        cards = Cards(settings.data_dir.absolute() / "run" / "cards", found)
        self._permits = PermitTask.permits = Permits(
            supervisor, registry, queues=queues, threads=worker.pool.limit, lease_seconds=settings.lease_seconds,
            cards=cards,
        )  # fmt: skip
        broker = Broker(settings.resolved_broker_url)
        registry.notify, registry.on_ended = broker.notify, metrics.count_ended
        worker.consumer.serve(self._permits)
        reaper = Reaper(registry, settings, supervisor, self._permits, take=worker.consumer.take)
        self._permits.on_used.append(reaper.look_soon)
        reaper.sweep()  # registered before it takes work that others might take
        for run in (
            self._leave_in_time,
            reaper.run,
            lambda: run_cleanup(registry, settings, self._stopping),
            lambda: PermitWatch(broker, self._permits, every_seconds=settings.poll_seconds).run(self._stopping),
        ):
            _in_thread(run)
        if {*OPENING} & {*queues}:
            trial = _in_thread(lambda: _try_sample(settings, supervisor, self._permits.places, expected))
            self._leaving.callback(trial.join, _LEAVING_S)
        self._leaving.callback(serve_metrics(settings))
        self._leaving.callback(_join, [broker.close, reaper.deregister])
        _LOG.info(
            "worker ready, serving %s with %d threads%s",
            ", ".join(queues) or "no queue",
            worker.pool.limit,
            "".join(f", {card.name} {card.uuid}" for card in cards.known),
        )

    def stop(self, worker: WorkController) -> None:
        self._stopping.set()
        self._leave()

    terminate = stop

    def _leave_in_time(self) -> None:
        """Leave as soon as Celery has to end. Its own thread may hang in the broker's client: it gets a moment."""
        self._stopping.wait()
        self._leave()
        time.sleep(_EXIT_S)
        os._exit(int(state.should_stop or 0))

    def _leave(self) -> None:
        with self._turn:
            self._permits.places.await_idle(_STOP_S)
            self._leaving.close()


def _set_on_shutdown(stopping: threading.Event) -> None:
    """Set the event when Celery has to end; not in the signal's handler, whose own thread may hold the lock."""
    reading, writing = os.pipe()

    def shutting_down(**_: object) -> None:
        os.write(writing, b".")

    def wait() -> None:
        os.read(reading, 1)
        stopping.set()

    worker_shutting_down.connect(shutting_down, weak=False)
    _in_thread(wait)


def _await_tables(registry: Registry) -> None:
    """Only the service migrates; a worker that starts first waits for it, unless it has to end meanwhile."""
    while True:
        state.maybe_shutdown()
        try:
            if registry.is_current():
                return
            _LOG.info("waiting for the service to prepare the database")
        except Unavailable as error:
            _LOG.warning("waiting for the database: %s", error)
        time.sleep(1.0)


def _log_protections(place: Path) -> list[str]:
    """Log what uploads are opened with, and warn of each protection that this machine lacks.

    Returns the protections that hold where this worker's children have their folders; no child begins without them.
    """
    place.mkdir(parents=True, exist_ok=True)
    report = confinement.status(place)
    _LOG.info("uploads are opened with: %s", "; ".join(f"{name} {what}" for name, what in report.items()))
    for sentence in confinement.warnings(report):
        _LOG.warning("%s", sentence)
    return controls_on(report)


def _try_sample(settings: WorkerSettings, supervisor: Supervisor, places: Places, expected: list[str]) -> None:
    """Try until the sample can be opened, or the worker stops; supervisor and places learn what was found."""
    places.most_loading, threads = 1, places.most_loading  # until it is known what one takes
    with suppress(Stopping):
        while True:
            loaded, supervisor.unfit = try_sample(
                settings, settings.work_dir, expected=expected, on_tick=supervisor.check
            )
            if loaded is not None:
                for kind in ("data", "resident", "address_space"):
                    metrics.LOADED_BYTES.labels(kind).set(getattr(loaded, kind))
                metrics.LOADING_SECONDS.set(loaded.seconds)
                supervisor.library_bytes = loaded.resident
                places.most_loading = max(1, min(threads, memory_bytes() // 2 // max(1, loaded.resident)))
            if supervisor.unfit is None:
                return _LOG.info(
                    "a process that opens an upload takes %s; at most %d at a time, in half of %.1f GB of memory",
                    *(loaded, places.most_loading, memory_bytes() / 1e9),
                )
            _LOG.error("%s", supervisor.unfit)
            supervisor.stopping.wait(_AGAIN_S)


def _in_thread(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def _join(last: list[Callable[[], None]]) -> None:
    """Do these beside each other; what hangs is left behind."""
    for thread in [_in_thread(one) for one in last]:
        thread.join(_LEAVING_S)
