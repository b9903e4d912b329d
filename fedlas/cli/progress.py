"""Progress: a bar on stderr where somebody sees it, and else nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from fedlas.cli.output import Output, shows_progress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Called with the bytes that have moved, and with all that are to move where that is known.
OnMove = Callable[[int, int | None], None]


@contextmanager
def transfer(output: Output, what: str, *, then: str | None = None) -> Iterator[OnMove]:
    """A bar of bytes, and what happens when they are all there."""
    if output.quiet or not shows_progress():
        yield lambda moved, total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(30), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=output.console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=None)

        def moved(bytes_moved: int, total: int | None) -> None:
            progress.update(bar, completed=bytes_moved, total=total, description=then if bytes_moved == total else what)

        yield moved


class Share(Protocol):
    """Moves a bar from 0 to 1 and says what happens."""

    #: Whether small steps are worth telling.
    shows_candidates: bool

    def __call__(self, what: str, fraction: float | None) -> None: ...


@contextmanager
def share(output: Output) -> Iterator[Share]:
    """A bar from 0 to 1 with what happens; without a terminal a line for each new thing that happens."""
    if output.quiet or not shows_progress():
        yield _Lines(output)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<44}"), BarColumn(30), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=output.console(stderr=True), transient=True) as progress:
        yield _Bar(progress, progress.add_task("", total=1.0))


class _Bar:
    """A bar on a terminal."""

    shows_candidates = True

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def __call__(self, what: str, fraction: float | None) -> None:
        self._progress.update(self._task, description=what, completed=fraction)


class _Lines:
    """A line on stderr when something else begins."""

    shows_candidates = False

    def __init__(self, output: Output) -> None:
        self._output, self._last = output, ""

    def __call__(self, what: str, fraction: float | None) -> None:
        if what != self._last:
            self._output.note(what)
            self._last = what
