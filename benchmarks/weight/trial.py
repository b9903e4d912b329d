"""Measures one attack on the running service: standstill, seconds, memory while it works and after a rest."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.weight.cost import Cost
from benchmarks.weight.disk import Risen
from benchmarks.weight.pulse import Pulse
from benchmarks.weight.requests import MIB, Attack
from benchmarks.weight.service import Service
from benchmarks.weight.wire import Answer, fire
from benchmarks.weight.world import World
from tests.helpers.processes import is_alive

#: More than this above before, and the service is given time to give it back before it is called kept.
_NOTICED_BYTES = 24 * MIB
#: More than this kept, and the next attack meets a fresh API: else it would find the memory there already.
_DIRTY_BYTES = 384 * MIB


@dataclass
class Range:
    """Where attacks are tried.

    Attributes:
        patience: seconds after which an answer does not come any more.
        rest, hold: seconds that memory is given to come back, and that half requests are held open, while searching.
    """

    service: Service
    world: World
    pulse: Pulse
    patience: float
    rest: float = 1.25  # memory is asked back once a second
    hold: float = 0.25
    _clean: int = 0

    def fresh(self) -> None:
        """A new API process with all models open."""
        self.service.restart_api()
        self.world.warm_up(self.service)
        self.pulse.settle(patience=self.patience)
        self.service.forget_highest()
        self._clean = self.service.memory

    def measure(self, attack: Attack, *, careful: bool = False) -> Cost:
        """Try it; `careful` rests for 4 s and holds half requests for 20, for what is reported."""
        names, before = self._begin()
        computed, hold = self.service.processor_seconds, 20.0 if careful else self.hold
        with Risen(lambda: self.service.disk) as disk:
            answers = [fire(self.service.port, shot, patience=self.patience, hold=hold) for shot in attack.shots]
        end = self._end(names, answers[-1], hopes=attack.shots[-1].expects)
        highest, standstill = self.service.highest_memory, self.pulse.longest
        processor = 0.0 if end else self.service.processor_seconds - computed
        traceback, kept = self.service.traceback(), 0
        if not end and (careful or highest - before > _NOTICED_BYTES):
            time.sleep(4.0 if careful else self.rest)
            kept = max(0, self.service.memory - before)
        if end or self.service.memory - self._clean > _DIRTY_BYTES:
            self.fresh()
        return Cost(
            standstill=standstill,
            seconds=answers[-1].seconds,
            processor=processor,
            status=answers[-1].status,
            peak=0 if end else max(0, highest - before),
            kept=kept,
            sent=sum(answer.sent for answer in answers),
            received=sum(answer.received for answer in answers),
            open=0 if attack.shots[-1].expects else answers[-1].open,
            silent=sum(answer.silent for answer, shot in zip(answers, attack.shots, strict=True) if shot.expects),
            disk=disk.by,
            keyless=not attack.holds(self.world.key.encode()),
            traceback=traceback,
            end=end,
        )

    def _begin(self) -> tuple[dict[int, str], int]:
        if not self.pulse.settle(patience=self.patience):
            self.fresh()
        self.service.forget_highest()
        self.pulse.reset()
        self.service.traceback()
        return self.service.names, self.service.memory

    def _end(self, names: dict[int, str], answer: Answer, *, hopes: bool) -> str:
        """What became of the service, once it has caught up or will not."""
        answers = self.pulse.settle(patience=max(2.0, self.patience - answer.seconds))
        if ended := [name for pid, name in names.items() if not is_alive(pid)]:
            return f"process ended: {', '.join(sorted(ended))}"
        if not answers or (hopes and answer.open and answer.seconds >= self.patience):
            return f"no answer in {self.patience:.0f} s"
        return ""
