"""The suspension of models: one whose runs end their process again and again is out of service for a while.

A model that has ended its process twice within ten minutes is suspended, for the time of the quarantine or until it is
loaded again by hand. Where several models ran when a process ended, and none is known to have done it, each is suspect:
such a model is suspended at the third time.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from service.ipc.documents import Fault
from service.predict.engine.quarantine import Quarantine

_LOG = logging.getLogger(__name__)
#: The time within which ends of processes are counted together.
_AGAIN_S = 600.0
_ENDS = 2
_SUSPICIONS = 3


class Suspension:
    """Counts the ends of processes by model, and suspends models; on one thread.

    Args:
        name_of: a model of a file, for the log.
    """

    def __init__(self, quarantine: Quarantine, name_of: Callable[[str], str]) -> None:
        self._quarantine = quarantine
        self._name_of = name_of
        self._ends: dict[str, deque[float]] = {}

    def fault(self, fault: Fault, process: str) -> None:
        """Count an end of this process while these models ran, all of which it was given."""
        sure = fault.certain or len(fault.models) == 1
        for digest in fault.models:
            self.ended(digest, process, fault.how, most=_ENDS if sure else _SUSPICIONS)

    def ended(self, digest: str, process: str, how: str = "a run without end", *, most: int = _ENDS) -> None:
        """Count one end for this model, which is suspended when there are `most`."""
        now = time.monotonic()
        self._ends = {model: ends for model, ends in self._ends.items() if now - ends[-1] < _AGAIN_S}
        ends = self._ends.setdefault(digest, deque(maxlen=_SUSPICIONS))
        ends.append(now)
        times = sum(now - at < _AGAIN_S for at in ends)
        told = f"the model {self._name_of(digest)} ({digest})"
        if times >= most:
            self._quarantine.add(digest)
            _LOG.critical("%s ran when %s ended (%s), the %d. time: it is suspended", told, process, how, times)
        else:
            _LOG.warning("%s ran when %s ended (%s)", told, process, how)
