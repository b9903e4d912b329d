"""The participation in the race of a calibration that another process leads: only what its trainings need is built."""

from __future__ import annotations

from fedlas.calibration.evaluation import CalibrationOptions
from fedlas.calibration.preparation import prepare
from fedlas.data import Dataset
from fedlas.importers import GraphClassifier
from fedlas.progress import JobProgress
from fedlas.race.journal import Journal
from fedlas.race.participant import Participant
from fedlas.race.progress import OnProgress
from fedlas.race.training_events import OnTraining


def participant(
    classifier: GraphClassifier,
    dataset: Dataset,
    options: CalibrationOptions,
    *,
    journal: Journal | None = None,
    progress: JobProgress | None = None,
    on_progress: OnProgress | None = None,
    on_training: OnTraining | None = None,
) -> Participant:
    """What trains for the race that `fedlas.calibration.calibrate` runs with the same arguments elsewhere.

    No calibrator is fitted and nothing is judged. Raises what `calibrate` does.
    """
    setup = prepare(classifier, dataset, options).race()
    return Participant(setup, journal=journal, progress=progress, on_progress=on_progress, on_training=on_training)
