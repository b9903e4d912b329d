"""Repeated work beside the requests: one failure is logged and ends nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

_LOG = logging.getLogger(__name__)


async def repeat(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do the work every so many seconds, until cancelled; it is done first after one of these times."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception:  # memory or threads may be short for a moment
            _LOG.exception("repeated work has failed, and is tried again in %.2g s", seconds)
