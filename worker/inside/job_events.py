"""The events of a job, inside the sandbox: stages, trainings, candidates and notices as they come, progress always."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from fedlas.contract.events import EpochEvent, Progress, ReportedEvent, Stage, WarningEvent
from fedlas.contract.profiles import Notice
from fedlas.documents import as_json
from fedlas.observer import Observer
from fedlas.progress import JobProgress
from worker.documents import ChildEvent
from worker.inside.channel import Emit

#: How often a thread tells progress while nothing else does.
_TELL_EVERY_S = 1.0
#: Epochs of a longer training that are reported, spread evenly, the last among them.
_TOLD_EPOCHS = 100


def notice_documents(notices: Iterable[Notice]) -> list[Notice]:
    """Notices whose every field is written down."""
    return [Notice.model_validate(as_json(notice)) for notice in notices]


class JobEvents(Observer):
    """Reports what a job does; while its `with` block runs a thread tells progress, however long a computation is."""

    def __init__(self, emit: Emit, progress: JobProgress) -> None:
        self._emit, self._progress = emit, progress
        self._training: Progress | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def on_stage(self, stage: Stage) -> None:
        self._training = None
        self._progress.begin(stage)
        self._emit(ChildEvent(stage=stage, progress=self._reached()))

    def on_progress(self, progress: Progress) -> None:
        self._training = progress
        self._emit(ChildEvent(progress=self._reached()))

    def on_event(self, event: ReportedEvent) -> None:
        """Report an event, but of the epochs of a long training only some."""
        match event:
            case EpochEvent(data=ended) if not _is_told(ended.epoch, ended.epochs):
                return
            case WarningEvent(data=notice):
                event = WarningEvent(type="warning", data=notice_documents([notice])[0])
        self._emit(ChildEvent(event=event))

    def _tell(self) -> None:
        while not self._ended.wait(_TELL_EVERY_S):
            self._emit(ChildEvent(progress=self._reached()))

    def _reached(self) -> Progress:
        where, training = self._progress.position(), self._training
        told = Progress(fraction=round(where.fraction, 4), eta_seconds=where.eta_seconds)
        if training is None:
            return told
        return told.model_copy(
            update={"candidate": training.candidate, "epoch": training.epoch, "epochs": training.epochs}
        )


def _is_told(epoch: int, epochs: int) -> bool:
    """True where this epoch of so many is reported.

    >>> [epoch for epoch in range(1, 1001) if _is_told(epoch, 1000)][-3:], all(_is_told(i, 100) for i in range(1, 101))
    ([980, 990, 1000], True)
    """
    return epoch * _TOLD_EPOCHS // epochs > (epoch - 1) * _TOLD_EPOCHS // epochs
