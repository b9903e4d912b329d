"""The producer of the queue: sends a Celery message after each commit that opened work."""

from __future__ import annotations

import logging

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from service.registry.contract import WAKE_UP
from service.registry.notifier import Notifier
from service.registry.repositories import Permit

_LOG = logging.getLogger(__name__)
_TIMEOUT_S = 2.0  # probes must not wait long for a broker that is away


class CeleryNotifier:
    """A notifier over Celery; `notify` returns at once."""

    def __init__(self, broker_url: str) -> None:
        self._celery = Celery("fedlas", broker=broker_url, set_as_current=False)
        timeouts = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
        self._celery.conf.update(
            broker_transport_options={**timeouts, "max_retries": 0},
            broker_connection_timeout=_TIMEOUT_S,
            task_ignore_result=True,
        )
        self._notifier = Notifier(self._send)
        self.notify = self._notifier.notify

    def check(self) -> None:
        """Raise an error unless the broker answers now."""
        with self._celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=_TIMEOUT_S)

    def close(self) -> None:
        """Close all connections."""
        self._notifier.close()
        self._celery.close()

    def _send(self, wake_up: Permit) -> None:
        try:
            self._celery.send_task(
                WAKE_UP, args=[wake_up.record_id], queue=wake_up.queue, retry=False, ignore_result=True
            )
        except (OperationalError, RedisError, OSError) as error:
            _LOG.warning("the broker is away; workers find %s when they poll: %s", wake_up.record_id, error)
