"""The producer's side of the queue: rings the doorbell after a commit; a lost ring is repeated by a worker."""

from __future__ import annotations

import logging

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from service.registry.contract import RING, WORK_KINDS

_LOG = logging.getLogger(__name__)
_PATIENCE_S = 2.0  # a request must not wait long for a broker that is away: its row is already safe


class Doorbell:
    """Tells the workers that a record waits for them."""

    def __init__(self, broker_url: str) -> None:
        self._celery = Celery("fedlas", broker=broker_url, set_as_current=False)
        timeouts = {"socket_timeout": _PATIENCE_S, "socket_connect_timeout": _PATIENCE_S}
        self._celery.conf.update(
            broker_transport_options={**timeouts, "max_retries": 0},
            broker_connection_timeout=_PATIENCE_S,
            task_ignore_result=True,
        )

    def ring(self, *record_ids: str) -> None:
        """Send one message per record; a broker that is away is logged and forgiven."""
        for record_id in record_ids:
            queue = WORK_KINDS[record_id.partition("_")[0]]
            try:
                self._celery.send_task(RING, args=[record_id], queue=queue, retry=False, ignore_result=True)
            except (OperationalError, RedisError, OSError) as error:
                _LOG.warning("the broker is away, %s will be picked up later: %s", record_id, error)

    def check(self) -> None:
        """Raise an error unless the broker answers now."""
        with self._celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=_PATIENCE_S)

    def close(self) -> None:
        """Close all connections."""
        self._celery.close()
