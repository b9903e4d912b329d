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
    first = first_turn(session, queue)
    of_flow = (Work.flow == flow, Work.queue == queue, Work.state.in_(("waiting", "claimed")))
    if (last := session.scalar(select(func.max(Work.turn)).where(*of_flow))) is not None:
        first = max(first, last + 1 / weight)
    return [first + place / weight for place in range(count)]


def first_turn(session: Session, queue: str) -> float:
    """The turn of a flow that is new in this queue, the same for all that come in one transaction."""
    known: dict[str, float] = session.info.setdefault("first_turns", {})
    if queue not in known:
        with session.no_autoflush:  # what this transaction adds is written at its end, all in one
            known[queue] = _first_turn(session, queue)
    return known[queue]


def _first_turn(session: Session, queue: str) -> float:
    served = session.scalar(select(func.max(Work.turn)).where(Work.state == "claimed", Work.queue == queue))
    if served is None:
        served = session.scalar(select(func.min(Work.turn)).where(Work.state == "waiting", Work.queue == queue))
    return 0.0 if served is None else served + 1 / _NEWCOMERS
