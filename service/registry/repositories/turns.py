"""The turns of a queue: round robin over flows, by start-time fair queueing (Goyal, Vin & Cheng, 1996).

A flow is whatever takes turns with others: today a job or batch with all its pieces, one day a customer. Each row is
given its turn when it is opened, so that a claim reads one row of an index.
"""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.registry.tables import Work

#: A flow that comes new is served before the next row of those that are served already, but so many such flows in a
#: row let an older one pass: without this a stream of small jobs would keep a large one from ever ending.
_NEWCOMERS = 8


def next_turns(session: Session, queue: str, flow: str, *, count: int = 1, weight: float = 1.0) -> list[float]:
    """The turns of the next rows of a flow, which takes `weight` turns where others take one."""
    of_queue = Work.queue == queue
    served = session.scalar(select(func.max(Work.turn)).where(Work.state == "claimed", of_queue))
    if served is None:
        served = session.scalar(select(func.min(Work.turn)).where(Work.state == "waiting", of_queue))
    first = 0.0 if served is None else served + 1 / _NEWCOMERS
    of_flow = (Work.flow == flow, of_queue, Work.state.in_(("waiting", "claimed")))
    if (last := session.scalar(select(func.max(Work.turn)).where(*of_flow))) is not None:
        first = max(first, last + 1 / weight)
    return [first + place / weight for place in range(count)]
