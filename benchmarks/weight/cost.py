"""What a request costs the service, as one record and as one number that can be climbed."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.weight.requests import MIB

#: The goals: `/healthz` takes no longer, and no more memory stays.
STANDSTILL_S, KEPT_BYTES = 0.25, 64 * MIB
#: Further goals of a request without a key: nothing is written to the disk, and little is computed.
DISK_BYTES, STRANGER_S = MIB, 2.0
#: What is not forbidden but shows where a limit lies: memory while it runs, bytes answered beyond those sent, seconds.
_PEAK_BYTES, _ANSWER_BYTES, _SECONDS = 1024 * MIB, 64 * MIB, 20.0
#: Processor time of the API that counts as much: what others do on the machine is not in it.
_PROCESSOR_S = 1.0
_CONNECTIONS = 100
#: Answers that say plainly that there is too much of something, or that this is not done here.
_LIMITS = frozenset({408, 411, 413, 414, 415, 429, 431})


@dataclass(frozen=True)
class Cost:
    """One request, measured.

    Attributes:
        processor: time that the API's processes have computed, in seconds.
        standstill: the longest gap between answers of `/healthz`, in seconds.
        seconds: until the answer was whole.
        status: 0 where nothing was answered.
        peak, kept: memory of the API above what it had before, while it worked and after a rest.
        open: connections without an answer that were still held open.
        silent: connections of whole requests on which nothing was answered, held open or closed.
        disk: what files grew by while it worked, deleted ones included.
        keyless: no key was sent.
        traceback: what the first one in the service's log ended with.
        end: what became of the service where it did not just go on: "process ended", "no answer in 60 s".
    """

    standstill: float = 0.0
    seconds: float = 0.0
    processor: float = 0.0
    status: int = 0
    peak: int = 0
    kept: int = 0
    sent: int = 0
    received: int = 0
    open: int = 0
    silent: int = 0
    disk: int = 0
    keyless: bool = False
    traceback: str = ""
    end: str = ""

    @property
    def score(self) -> float:
        """1 for what reaches one of the goals; costs add up, so that a climb sees every slope."""
        score = self.standstill / STANDSTILL_S + self.kept / KEPT_BYTES + self.peak / _PEAK_BYTES
        score += self.processor / _PROCESSOR_S + self.seconds / _SECONDS
        score += max(0, self.received - self.sent) / _ANSWER_BYTES + self.open / _CONNECTIONS
        score += self.disk / DISK_BYTES if self.keyless else 0.0
        score += 4.0 * (self.status == 500) + 4.0 * bool(self.traceback) + 4.0 * bool(self.silent)
        return score + (1000.0 if self.end else 0.0)

    @property
    def limited(self) -> bool:
        """Refused for its size or kind, and cheaply."""
        return self.status in _LIMITS and self.score < 1

    @property
    def misses(self) -> list[str]:
        """Which goals it misses."""
        found = [self.end] if self.end else []
        found += [f"standstill {self.standstill:.2f} s"] if self.standstill > STANDSTILL_S else []
        found += [f"{self.kept / MIB:,.0f} MiB kept"] if self.kept > KEPT_BYTES else []
        found += [f"status {self.status}"] if self.status >= 500 else []
        found += [f"no answer on {self.silent:,} connections"] if self.silent else []
        found += [f"traceback: {self.traceback}"] if self.traceback else []
        if self.keyless:
            found += [f"{self.disk / MIB:,.0f} MiB of files"] if self.disk > DISK_BYTES else []
            found += [f"{self.processor:.1f} s computed for a stranger"] if self.processor > STRANGER_S else []
        return found + ([f"{self.open:,} connections held"] if self.open >= _CONNECTIONS else [])
