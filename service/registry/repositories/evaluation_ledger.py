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
            taken = Look(job_id=job_id, dataset_sha256=dataset_sha256, number=self.before(dataset_sha256))
            self.session.add(taken)
            self.session.flush()
        return taken.number

    def before(self, dataset_sha256: str) -> int:
        """Return what the next look at this file would be told of, without taking one."""
        highest = self.session.scalar(select(func.max(Look.number)).where(Look.dataset_sha256 == dataset_sha256))
        return 0 if highest is None else highest + 1

    def give_back(self, job_id: str) -> None:
        """The job ended without a verdict; without a look of its own nothing happens."""
        self.session.execute(delete(Look).where(Look.job_id == job_id))
