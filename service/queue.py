"""The producer's side of the queue: rings the doorbell after a commit; a ring that is lost is made good by workers."""

from __future__ import annotations

import logging

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from service.registry.contract import RING
from service.registry.notifier import Bell
from service.registry.repositories import Ring

_LOG = logging.getLogger(__name__)
_PATIENCE_S = 2.0  # probes must not wait long for a broker that is away


class Doorbell:
    """Tells the workers that something waits for them."""

    def __init__(self, broker_url: str) -> None:
        self._celery = Celery("fedlas", broker=broker_url, set_as_current=False)
        timeouts = {"socket_timeout": _PATIENCE_S, "socket_connect_timeout": _PATIENCE_S}
        self._celery.conf.update(
            broker_transport_options={**timeouts, "max_retries": 0},
            broker_connection_timeout=_PATIENCE_S,
            task_ignore_result=True,
        )
        self._bell = Bell(self._send)
        self.ring = self._bell.ring

    def check(self) -> None:
        """Raise an error unless the broker answers now."""
        with self._celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=_PATIENCE_S)

    def close(self) -> None:
        """Close all connections."""
        self._bell.close()
        self._celery.close()

    def _send(self, ring: Ring) -> None:
        try:
            self._celery.send_task(RING, args=[ring.record_id], queue=ring.queue, retry=False, ignore_result=True)
        except (OperationalError, RedisError, OSError) as error:
            _LOG.warning("the broker is away, %s will be picked up without it: %s", ring.record_id, error)
