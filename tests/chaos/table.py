"""The one table that a run prints: what was done, what became of it, and what broke a promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.chaos.deck import KINDS
from tests.chaos.promise import Line
from tests.chaos.site import LEASE_S, MAX_ATTEMPTS
from tests.chaos.storm import Run

_WIDTH = 68
_SHOWN = 5


def table(run: Run, promises: Sequence[Line]) -> str:
    """The text of it."""
    rows = [
        "", row("fault", "times"), *_faults(run),
        "", row("what happened", "count"), *_happenings(run),
        "", *promise_rows(promises), row("seen while it ran", "", len(run.violations)), "",
    ]  # fmt: skip
    return "\n".join([*rows, *_notes(run), *judged(promises, run.violations)])


def promise_rows(promises: Sequence[Line]) -> list[str]:
    """Every promise: how often it was looked at, and broken."""
    lines = [row(line.promise, line.looked_at, len(line.broken)) for line in promises]
    return [row("promise", "looked at", "broken"), *lines]


def judged(promises: Sequence[Line], violations: Sequence[str] = ()) -> list[str]:
    """The last lines: that all was kept, or what was not."""
    broken = [text for line in promises if line.broken for text in (f"{line.promise}:", *_some(line.broken))]
    broken += _some(violations)
    return ["BROKEN:", *broken] if broken else ["every promise was kept"]


def _faults(run: Run) -> list[str]:
    done = [row(kind, run.left_out.get(kind, run.counts[kind])) for kind in KINDS]
    return [*done, row("all faults", run.counts.total())]


def _happenings(run: Run) -> list[str]:
    ended = Counter(str(one.record.get("status")) for one in run.orders)
    attempts = [int(one.record.get("attempts", 0)) for one in run.orders]
    answers = run.receiver.count()
    return [
        row("datasets uploaded meanwhile", len(run.visits)),
        row("jobs ordered", len(run.orders)),
        *(row(f"  {status}", count) for status, count in sorted(ended.items())),
        row("batches ordered, and their parts", f"{len(run.batches)} / {sum(len(one.parts) for one in run.batches)}"),
        row("shards done by several workers, of so many", _spread(run)),
        row("attempts of all jobs, and the most of one", f"{sum(attempts)} / {max(attempts, default=0)}"),
        row("messages doubled", sum(doubler.doubled for doubler in run.doublers)),
        row("webhooks taken / turned away / not rightly signed", " / ".join(str(answers[n]) for n in (204, 503, 400))),
        *(row(f"asked again after {trouble}", count) for trouble, count in run.troubles.most_common()),
    ]


def _spread(run: Run) -> str:
    """Shards of batches that several workers have done together, and shards of all."""
    seen = run.watch.seen
    shards = {parent: len(done) for parent, done in seen.workers_of.items()}
    return f"{sum(shards[parent] for parent in seen.spread())} / {sum(shards.values())}"


def _notes(run: Run) -> list[str]:
    surprises = [text for part in run.site.parts for text in part.surprises]
    return [
        f"note: FEDLAS_MAX_ATTEMPTS={MAX_ATTEMPTS} (elsewhere 5), since faults come so densely; lease {LEASE_S:.0f} s",
        *(f"note: {text}" for text in surprises),
        "",
    ]


def row(name: str, *cells: object) -> str:
    """A line of a table."""
    return f"{name:<{_WIDTH}}" + "".join(f"{cell!s:>11}" for cell in cells)


def _some(texts: Sequence[str]) -> list[str]:
    more = len(texts) - _SHOWN
    return [f"  {text}" for text in texts[:_SHOWN]] + ([f"  and {more} more"] if more > 0 else [])
