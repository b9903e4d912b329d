"""The two forms of the service, side by side with the same models; one stands still while the other is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.serving import models, ours
from benchmarks.serving.fleet import Contender, round_to
from benchmarks.serving.ours import Fedlas
from benchmarks.serving.payloads import Request

Json = dict[str, Any]
#: By their settings of `FEDLAS_WALL`.
ONE_PROCESS = "one process"
WALLED = "walled"
_SETTINGS = {ONE_PROCESS: "off", WALLED: "preferred"}
_NO_API = ("worker", "broker")


@dataclass(frozen=True)
class Form:
    """A running service with two models by id: `digits` (64 numbers a row, as good as free) and `mnist` (784)."""

    name: str
    service: Fedlas
    digits: str
    mnist: str

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.service.running.port

    def contender(self, request: Request) -> Contender:
        """With one request, for `fleet.in_turn`."""
        return Contender(self.name, self.service.running, request)

    def api_processes(self) -> dict[str, int]:
        """The processes of the service but broker and workers: their names and process ids."""
        files = (self.service.data_dir / "run").glob("*.pid")
        return {path.stem: int(path.read_text()) for path in files if not path.stem.startswith(_NO_API)}


@contextmanager
def both() -> Iterator[list[Form]]:
    """Start both forms with their models and end them after the block."""
    with ExitStack() as stack:
        yield [_started(name, stack) for name in _SETTINGS]


def _started(name: str, stack: ExitStack) -> Form:
    # The start after a restart counts: the first one on an empty folder makes its tables.
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="fedlas-wall-")))
    with ours.serving(folder, FEDLAS_WALL=_SETTINGS[name]) as service:
        ids = service.upload([models.digits().content, models.mnist().content])
    return Form(name, stack.enter_context(ours.serving(folder, FEDLAS_WALL=_SETTINGS[name])), *ids)


def compared(found: dict[str, list[Json]], key: str, *, more_is_better: bool) -> Json:
    """Medians of both forms, and how the wall does against one process: 1 is alike, less is worse."""
    values = {name: median(float(run[key]) for run in runs) for name, runs in found.items()}
    without, walled = values[ONE_PROCESS], values[WALLED]
    ratio = walled / without if more_is_better else without / walled
    rounds = {name: [round_to(float(run[key])) for run in runs] for name, runs in found.items()}
    return {**{name: round_to(value) for name, value in values.items()}, "ratio": round(ratio, 3), "rounds": rounds}
