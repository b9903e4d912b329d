"""The evaluation ledger: how often the test rows of a file have judged a job.

The key is the digest of the file as it was sent: a dataset that is deleted and sent again, or split by another seed,
goes on with the same ledger.
"""

from __future__ import annotations

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from service.registry.tables import Evaluation


class EvaluationLedger:
    """A job enters before its test rows judge; the entry of a job without a verdict is withdrawn."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def enter(self, dataset_sha256: str, job_id: str) -> int:
        """Return how many evaluations came before this job's; a job that begins again keeps its number.

        The highest number so far decides, not the count: two jobs never have the same number.
        """
        entered = self.session.get(Evaluation, job_id)
        if entered is None:
            number = self.evaluations(dataset_sha256)
            entered = Evaluation(job_id=job_id, dataset_sha256=dataset_sha256, number=number)
            self.session.add(entered)
            self.session.flush()
        return entered.number

    def evaluations(self, dataset_sha256: str) -> int:
        """Return how many evaluations of this file the next job follows, without entering one."""
        of_file = Evaluation.dataset_sha256 == dataset_sha256
        highest = self.session.scalar(select(func.max(Evaluation.number)).where(of_file))
        return 0 if highest is None else highest + 1

    def withdraw(self, job_id: str) -> None:
        """Delete the entry of a job that ended without a verdict; nothing happens where there is none."""
        self.session.execute(delete(Evaluation).where(Evaluation.job_id == job_id))
