"""Awaited records: a part of a page asks for one, and is answered once its work has ended.

A part that is answered `204` stays as it is, and asks again by itself: nothing is drawn for who only waits.
"""

from __future__ import annotations

from service.api.services import Services
from service.registry.contract import FINAL
from service.registry.unit_of_work import UnitOfWork

#: Less than the time after which a part asks again (`hx-trigger`).
_WAIT_S = 20.0


async def ended(services: Services, record_id: str) -> bool:
    """Whether the record is final, or gone, at the latest after a while."""

    def status(unit: UnitOfWork) -> str | None:
        kinds = (unit.models, unit.datasets, unit.jobs)
        return next((found for kind in kinds if (found := kind.statuses([record_id]).get(record_id))), None)

    await services.long_poll.for_final(record_id, _WAIT_S)
    return await services.read(status) in {None, *FINAL}
