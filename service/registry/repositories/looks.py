"""The ledger of looks: how often the test rows of a file have judged; it does not know what is concluded from it.

The key is the digest of the file as it was sent: a dataset that is deleted and sent again, or split by another seed,
goes on with the same ledger.
"""

from __future__ import annotations

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from service.registry.tables import Look


class Looks:
    """Looks are taken, and given back where a job has shown nobody anything."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def take(self, dataset_sha256: str, job_id: str) -> int:
        """Return how many looks came before this job's; a job that begins again keeps its number.

        The highest number so far decides, not the count: two jobs never have the same number.
        """
        taken = self.session.get(Look, job_id)
        if taken is None:
            highest = select(func.max(Look.number)).where(Look.dataset_sha256 == dataset_sha256)
            found = self.session.scalar(highest)
            number = 0 if found is None else found + 1
            taken = Look(job_id=job_id, dataset_sha256=dataset_sha256, number=number)
            self.session.add(taken)
            self.session.flush()
        return taken.number

    def give_back(self, job_id: str) -> None:
        """The job ended without a verdict; without a look of its own nothing happens."""
        self.session.execute(delete(Look).where(Look.job_id == job_id))
