"""Help with the race of a job, inside the sandbox: one training after the other, as the supervisor orders them."""

from __future__ import annotations

from pathlib import Path

from fedlas.progress import JobProgress
from worker.documents import CandidateOrder, CandidatesResult, TrainReply
from worker.inside.job_events import JobEvents
from worker.inside.work_function import Ask, Emit, Files


def train(order: CandidateOrder, files: Files, folder: Path, emit: Emit, ask: Ask) -> CandidatesResult:
    """Train what is ordered until nothing is; each outcome is left in the journal before it is asked again."""
    progress = JobProgress()
    with JobEvents(emit, progress, shares=True) as tell:  # loading PyTorch may take seconds
        return CandidatesResult(num_trainings=_trained(order, files, folder, emit, ask, progress, tell))


def _trained(
    order: CandidateOrder, files: Files, folder: Path, emit: Emit, ask: Ask, progress: JobProgress, tell: JobEvents
) -> int:
    from fedlas.calibration.participation import participant
    from worker.inside.model_loading import open_job
    from worker.inside.reproducibility import journal_of, repeat_exactly
    from worker.inside.spreading import planned_training

    repeat_exactly()
    journal = journal_of(order, files, folder, emit)
    if journal is None:
        raise ValueError("what is trained for another worker must be saved, and the order asks for no checkpoints")
    one = participant(
        *open_job(order, files, folder),
        journal=journal,
        progress=progress,
        on_progress=tell.progress,
        on_training=tell.training,
    )
    trained = 0
    while isinstance(reply := ask(), TrainReply):
        journal.given(reply.entries)
        spent, kept = reply.order.spent_seconds, reply.order.kept_seconds
        one.train(planned_training(reply.order), spent_seconds=spent, kept_seconds=kept)
        trained += 1
    return trained
