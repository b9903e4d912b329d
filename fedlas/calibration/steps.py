"""The steps of a calibration, with the seconds that they are expected to take before anything is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedlas.calibration.evaluation import CalibrationOptions
from fedlas.progress import TRAINING, JobProgress

if TYPE_CHECKING:  # a job begins before PyTorch is loaded
    from fedlas.calibration.judging_costs import JudgingCosts

#: Seconds of steps that cannot be known beforehand, and the share of a budget that trainings get as a rule.
_GUESSED = {"evaluating": 2.0, "post hoc": 3.0, "measuring": 2.0, "judging": 2.0, "writing": 1.0, "reporting": 5.0}
_GUESSED |= {"exporting": 1.0, "publishing": 1.5}
_TRAINING_SHARE = 0.7


def begun(options: CalibrationOptions, *, seconds_ago: float = 0.0) -> JobProgress:
    """A calibration that begins now, or that many seconds ago, and its steps as far as they can be guessed."""
    progress = JobProgress(spent=seconds_ago)
    progress.deadline = progress.began + options.budget_seconds
    for step, seconds in _GUESSED.items():
        progress.expect(step, seconds)
    if options.method not in ("post_hoc", "temperature"):
        progress.expect(TRAINING, _TRAINING_SHARE * options.budget_seconds, kind=TRAINING)
    return progress


def expect_costs(progress: JobProgress, costs: JudgingCosts) -> None:
    """Expect what follows the race to take what was measured."""
    for step, seconds in vars(costs).items():
        progress.expect(step, seconds)
