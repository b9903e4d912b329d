"""The consumer of permits: Celery's, which takes in nothing but permits and says nothing to other workers.

A message that is no permit is rejected with one line in the log; what is put into a queue by a stranger never runs.
Permits are also taken in without a broker (`take`): the reaper does so for work that no message has announced, and the
way from there on is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from celery.worker.consumer import Consumer
from celery.worker.loops import asynloop
from kombu.message import Message

from service.registry.repositories import Permit
from worker.outside.permits import Permits
from worker.permit_message import Fault, message_of, permit_of

_LOG = logging.getLogger("fedlas.worker")


class PermitConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer; `serve` comes before its start.

    Gossip and mingle are off: each worker would hear every other's heartbeat, which are 500,000 messages a second with
    a thousand workers, and would wait for a second at its start.
    """

    def __init__(self, *args: object, worker_options: dict[str, object] | None = None, **options: object) -> None:
        alone = {**(worker_options or {}), "without_gossip": True, "without_mingle": True}
        super().__init__(*args, worker_options=alone, **options)

    def serve(self, permits: Permits, *, own_queue: str, on_ping: Callable[[], None]) -> None:
        """Take in permits for these; messages of `own_queue` are the worker's to itself."""
        self._permits, self._own_queue, self._on_ping = permits, own_queue, on_ping
        permits.on_used.append(self._balance_soon)
        self.update_strategies()  # permits are taken in before any connection
        self._take_in: Callable[[Message], None] = super().create_task_handler()

    def take(self, permit: Permit) -> None:
        """Take in a permit that came by no broker; safe in any thread."""
        self._take(permit, message_of(self.app, permit))

    def create_task_handler(self) -> Callable[[Message], None]:
        """What Celery's loop does with a message."""
        return self._receive

    def loop(self, *arguments: object) -> None:
        """Celery's loop; an item that is no message at all costs the connection, and not the worker."""
        try:
            asynloop(*arguments)
        except (*self.connection_errors, *self.channel_errors):
            raise
        except Exception as error:
            _LOG.warning("an item of a queue was thrown away: %s: %s", type(error).__name__, error)
            raise ConnectionResetError("connecting anew") from error

    def _receive(self, message: Message) -> None:
        queue = message.delivery_info["routing_key"]
        if queue == self._own_queue:
            message.ack_log_error(_LOG, self.connection_errors)
            self._on_ping()
            return
        try:
            permit = permit_of(message, self._permits.queues)
        except Fault as fault:
            _LOG.warning("a message in queue %.80s was rejected: %s", queue, fault)
            message.reject_log_error(_LOG, self.connection_errors)
        else:
            self._take(permit, message_of(self.app, permit, received=message))

    def _take(self, permit: Permit, message: Message) -> None:
        self._permits.places.take(permit.queue)
        try:
            self._take_in(message)
        except BaseException:  # Celery has not begun: nobody else gives the place back
            self._permits.places.leave(permit.queue)
            raise
        self._balance_soon(permit.queue)

    def _balance_soon(self, queue: str) -> None:
        if len(self._permits.queues) > 1:
            self.call_soon(self._balance, queue)

    def _balance(self, queue: str) -> None:
        """Consume from this queue as long as it has less than its share of the threads."""
        consuming, wanted = queue in self.app.amqp.queues.consume_from, self._permits.places.has_share(queue)
        if consuming and not wanted:
            self.cancel_task_queue(queue)
        elif wanted and not consuming:
            self.add_task_queue(queue)
