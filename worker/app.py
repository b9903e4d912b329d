"""The Celery application of the workers: `celery -A worker.app worker -Q calibrate.cpu -c 1` does the work.

A message is a permit for the next work of its queue (`worker.consumer`), and nothing depends on it: it is acknowledged
as it comes, leaves no result, and is never tried again. The configuration is made of the `FEDLAS_*` settings when it is
first needed, so `celery inspect` and Flower take this application as it is.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

from celery import Celery
from celery.platforms import SecurityWarning
from celery.signals import celeryd_init, setup_logging, worker_init
from celery.utils.sysinfo import is_auto_concurrency
from celery.worker import WorkController
from kombu.entity import Exchange, Queue
from pydantic import ValidationError

from fedlas.extras import TwoRuntimes, check_single_runtime, has_gpu
from service.registry.queues import GPU_ONLY
from service.registry.settings import OWNER_ONLY, WorkerSettings, mistakes
from worker.outside.cards import obstacle

#: A broker that is silent for so long is given up and connected to anew; it answers every second, if only "nothing".
_SOCKET_TIMEOUT_S = 5.0
#: A message that a worker has taken and not acknowledged for so long goes back: that worker is gone.
_VISIBILITY_S = 60.0


def configuration() -> dict[str, object]:
    """Celery's settings, made of those of the environment; where these are wrong a line for each mistake is the end."""
    try:
        settings = WorkerSettings()
    except ValidationError as error:
        raise SystemExit("\n".join(f"fedlas: {mistake}" for mistake in mistakes(error))) from None
    exchange = Exchange("fedlas")
    return {
        "broker_url": settings.resolved_broker_url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "socket_timeout": _SOCKET_TIMEOUT_S,
            "socket_keepalive": True,
            "visibility_timeout": _VISIBILITY_S,
        },
        "accept_content": ["json"],
        "task_queues": [Queue(queue, exchange, routing_key=queue) for queue in settings.resolved_queues],
        "task_create_missing_queues": False,
        "task_acks_late": False,
        "task_ignore_result": True,
        "worker_pool": "threads",  # each waits for a child of its own: a process for it would do nothing else
        "worker_concurrency": "auto",
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,  # what waits, waits where any worker can take it
        "worker_consumer": "worker.consumer:PermitConsumer",
        "worker_send_task_events": True,
        "worker_cancel_long_running_tasks_on_connection_loss": True,  # of those acknowledged late: there are none
        "worker_enable_prefetch_count_reduction": False,
        "worker_detect_quorum_queues": False,
        "worker_hijack_root_logger": False,
        "worker_log_format": settings.log_format,
        "worker_redirect_stdouts": False,
    }


app = Celery("fedlas", include=["worker.consumer"])
app.add_defaults(configuration)
app.steps["worker"].add("worker.bootsteps:PermitWork")


@worker_init.connect  # type: ignore[untyped-decorator]
def _leave_gpu_work(sender: WorkController, **_: object) -> None:
    """Without a GPU that PyTorch computes on its queue is left to others, whether it was asked for or not."""
    queues = sender.app.amqp.queues
    if GPU_ONLY in queues.consume_from and not (has_gpu() and obstacle() is None):
        logging.getLogger("fedlas.worker").info("no GPU computes here: %s is left to other workers", GPU_ONLY)
        queues.deselect([GPU_ONLY])


@worker_init.connect  # type: ignore[untyped-decorator]
def _default_concurrency(sender: WorkController, **_: object) -> None:
    """Without `-c` a thread for each queue that is served: none waits for another."""
    if is_auto_concurrency(sender.concurrency):
        sender.concurrency = max(1, len(sender.app.amqp.queues.consume_from))


@celeryd_init.connect  # type: ignore[untyped-decorator]
def _about_to_start(**_: object) -> None:
    try:
        check_single_runtime()
    except TwoRuntimes as both:
        raise SystemExit(f"fedlas: {both}") from None
    os.umask(OWNER_ONLY)
    # Indices of cards are those of nvidia-smi; by default CUDA puts the fastest first.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    # Uploads are opened in a child of their own; Celery's general warning about root repeats at every start.
    warnings.filterwarnings("ignore", category=SecurityWarning)


@setup_logging.connect  # type: ignore[untyped-decorator]
def _set_up_log(format: str, loglevel: int | None = None, logfile: str | None = None, **_: object) -> None:
    """One line per event of the worker; libraries log warnings only, unless `--loglevel` asks for more."""
    handler = logging.FileHandler(logfile) if logfile else logging.StreamHandler(sys.stdout)
    logging.basicConfig(level=loglevel or logging.WARNING, format=format, handlers=[handler])
    logging.getLogger("fedlas.worker").setLevel(logging.INFO)
