"""A busy machine: a whole `fedlas serve` beside processes that compute without end; no watchdog may end a part."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

from tests.chaos.crowd import Crowd
from tests.chaos.evidence import Evidence
from tests.chaos.loops import computing
from tests.chaos.orders import PREDICTED, some_digits
from tests.chaos.promise import Line
from tests.chaos.site import Shared
from tests.chaos.table import judged, promise_rows, row
from tests.chaos.verdict import customers_are_served, every_job_ends_well
from tests.helpers.service import Service, serving
from tests.helpers.uploads import digits_model, digits_npz

Say = Callable[[str], None]

_PUBLISHED = "digits"
_REPORT_S = 60
#: Lines of the log by which a process, of the service or of its work, has ended before its time.
_ENDED = re.compile(
    r"hangs: |died \(|is ended: |it is ended|process ends|by force"
    r"|was lost \(|another worker owns it|waits again: |: restarting"
)
#: Answers after which customers may be asked to come again.
_REFUSED = re.compile(r"(429|503) \w+")


def run(folder: Path, *, seconds: float, load: int, say: Say) -> bool:
    """All of it; returns whether every promise was kept. The log of the service stays in the folder."""
    say(f"busy: a load of {load} for {seconds:.0f} s, in {folder}")
    with serving(folder / "busy") as service:
        shared, published = _uploaded(service)
        before = _processes(service)
        crowd = Crowd(str(service.client.base_url), time.monotonic() + seconds, shared, published)
        with crowd.coming(), computing(load - 1):  # itself about one
            wanting = _watched(crowd, say)
        after = _processes(service)
        again = service.rows("SELECT kind, record_id, attempts, losses FROM work WHERE attempts > 1")
        promises = lines(crowd, before, after, service.log.splitlines(), again)
        say(table(crowd, promises, wanting))
    return not any(line.broken for line in promises)


def lines(
    crowd: Crowd, before: Mapping[str, int], after: Mapping[str, int], log: Sequence[str], again: Sequence[object]
) -> list[Line]:
    """Every promise, in the order of the table; processes by name, and work that was begun more than once."""
    names = sorted({*before, *after})
    ended = [
        f"{name} was {before.get(name)}, is {after.get(name)}" for name in names if before.get(name) != after.get(name)
    ]
    refused = [
        f"{count} times {trouble}" for trouble, count in crowd.troubles.items() if not _REFUSED.fullmatch(trouble)
    ]
    served = customers_are_served(Evidence(orders=crowd.orders))
    return [
        Line("processes of the service that run on", len(names), ended),
        Line(
            "lines of the log, none of which tells of an end", len(log), [line for line in log if _ENDED.search(line)]
        ),
        Line("work done at the first attempt", crowd.done.total(), [f"begun again: {one}" for one in again]),
        Line("deeds without a request that was lost, or refused without Retry-After", crowd.done.total(), refused),
        Line(served.promise, crowd.done.total(), [*served.broken, *crowd.complaints]),
        every_job_ends_well(Evidence(orders=crowd.orders)),
    ]


def table(crowd: Crowd, promises: Sequence[Line], wanting: Sequence[int]) -> str:
    """The text: what was done and how long it took, the promises, and what broke them."""
    deeds = [row(name, len(s), f"{median(s):.2f}", f"{max(s):.2f}") for name, s in sorted(crowd.seconds.items())]
    rows = [
        "", row("what was done", "times", "median, s", "most, s"), *deeds,
        *(row(f"asked again after {trouble}", count) for trouble, count in crowd.troubles.most_common()),
        row("processes that wanted a core, mean and most", "", f"{mean(wanting):.1f}", max(wanting)),
        "", *promise_rows(promises), "",
    ]  # fmt: skip
    return "\n".join([*rows, *judged(promises)])


def _uploaded(service: Service) -> tuple[Shared, Shared]:
    """The records that all jobs use, and a published model with its answers while nothing else goes on."""
    model, dataset = service.inspected("models", digits_model()), service.inspected("datasets", digits_npz())
    service.calibrated(model, dataset, method="post_hoc", publish_as=_PUBLISHED)
    shared = Shared(model["id"], dataset["id"], rows_id="")
    return shared, replace(shared, model_id=_PUBLISHED, predicted=service.predict(_PUBLISHED, some_digits(PREDICTED)))


def _processes(service: Service) -> dict[str, int]:
    return {file.stem: int(file.read_text()) for file in (service.data_dir / "run").glob("*.pid")}


def _watched(crowd: Crowd, say: Say) -> list[int]:
    """Wait until the end; returns how many processes of the machine ran or waited for a core, each second."""
    wanting: list[int] = []
    while time.monotonic() < crowd.end:
        time.sleep(1)
        running = Path("/proc/loadavg").read_text().split()[3].partition("/")[0]
        wanting.append(int(running) - 1)  # this one reads
        if len(wanting) % _REPORT_S == 0:
            say(f"{len(wanting)} s: {mean(wanting):.1f} processes want a core; {dict(crowd.done)}")
    return wanting
