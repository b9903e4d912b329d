"""Remote control, for reading only: whoever reaches the broker can ask workers what they do, and change nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable

from celery.worker.control import Panel

_LOG = logging.getLogger("fedlas.worker")

#: Flower asks for events, which are always on. What else only reads writes files, or takes long.
_PERMITTED = frozenset(
    (
        *("active", "active_queues", "clock", "conf", "ping", "query_task", "registered", "report", "reserved"),
        *("revoked", "scheduled", "stats", "dump_active", "dump_conf", "dump_reserved", "dump_revoked"),
        *("dump_schedule", "dump_tasks", "enable_events", "heartbeat"),
    )
)


def permit_reading_only() -> None:
    """Refuse every command that is not known to only read; for this process."""
    for command in set(Panel.data) - _PERMITTED:
        Panel.data[command] = _refused(command)


def _refused(command: str) -> Callable[..., dict[str, str]]:
    def refuse(state: object, **arguments: object) -> dict[str, str]:
        _LOG.warning("remote control: %s was refused", command)
        return {"error": f"{command} is refused: workers are controlled by their settings and by signals"}

    return refuse
