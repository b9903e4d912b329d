"""Awaited records: a part of a page asks for one, and is answered once there is something to draw.

A part that is answered `204` stays as it is, and asks again by itself: nothing is drawn for who only waits.
"""

from __future__ import annotations

from service.api.responses import Record
from service.registry.contract import FINAL

#: How long an answer is held: less than the time after which a part asks again (`hx-trigger`).
WAIT_S = 20.0


def is_news(record: Record | None, *, told: bool) -> bool:
    """Whether the record is final, gone, or kept from going on, or `told` is that it was and it does go on."""
    return told or record is None or record.status in FINAL or record.waiting_for is not None
