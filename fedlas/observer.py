"""The observer of a calibration: it is called with stages, progress and events while the calibration runs.

A subclass writes the methods that it needs. What a method raises ends the calibration and passes through.

>>> class Losses(Observer):
...     def on_event(self, event):
...         if event.type == "epoch":
...             print(event.data.candidate, event.data.epoch, event.data.loss)
>>> observer = Losses()  # fedlas.calibrate(model, train, calibration, test, observer=observer)
"""

from __future__ import annotations

from fedlas.contract.events import Progress, ReportedEvent, Stage, WarningEvent


class Observer:
    """An observer that ignores everything: the base of all, and the default."""

    def on_stage(self, stage: Stage) -> None:
        """A stage begins: `evaluating`, `training` or `calibrating`."""

    def on_progress(self, progress: Progress) -> None:
        """A training begins (epoch 0), or an epoch of it has ended; the fraction is of the whole calibration."""

    def on_event(self, event: ReportedEvent) -> None:
        """Something has happened: `warning`, `training`, `epoch`, `score` or `candidate` (`event.type`).

        A race that goes on from a journal repeats the events of trainings that it had finished, but no candidate.
        """


class PrintingObserver(Observer):
    """An observer that prints stages, progress and warnings, a line each.

    >>> observer = PrintingObserver()
    >>> observer.on_stage("training")
    training
    >>> observer.on_progress(Progress(fraction=0.25, candidate="fedlas, fold 1 of 3", epoch=2, epochs=8, eta_seconds=9))
    training (fedlas, fold 1 of 3, epoch 2 of 8): 25 %, 9 s left
    """

    _stage = ""

    def on_stage(self, stage: Stage) -> None:
        self._stage = stage
        print(stage)

    def on_progress(self, progress: Progress) -> None:
        left = "" if progress.eta_seconds is None else f", {progress.eta_seconds:.0f} s left"
        print(f"{self._stage} ({progress.training}): {100 * progress.fraction:.0f} %{left}")

    def on_event(self, event: ReportedEvent) -> None:
        if isinstance(event, WarningEvent):
            print(f"warning: {event.data.message}")
