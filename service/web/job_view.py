"""The view of a job: everything that its page shows, read in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.api.record_codes import RECORD_CODES
from service.registry.contract import FINAL, DeliveryRecord, JobRecord
from service.registry.presenters import delivery_record, job_record
from service.registry.unit_of_work import UnitOfWork
from service.web.event_sentences import LEFT_OUT, ToldEvent, told
from service.web.job_words import Step, steps_of, verdict_in_words

#: The newest events that a page shows; the API has all.
_EVENTS = 60
_DELIVERIES = 5


@dataclass(frozen=True)
class JobView:
    """A job, what it calibrates, and where it stands.

    Attributes:
        model_name, dataset_name: None where it was deleted.
        events: newest first.
        last_event: the number of the newest.
        deliveries: of messages to its webhook, newest first.
    """

    job: JobRecord
    model_name: str | None
    dataset_name: str | None
    events: Sequence[ToldEvent]
    last_event: int
    deliveries: Sequence[DeliveryRecord]

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.job.status in FINAL

    @property
    def title(self) -> str:
        """The heading."""
        model = "a deleted model" if self.model_name is None else self.model_name
        return f"{'Dry run' if self.job.dry_run else 'Calibration'} of {model}"

    @property
    def steps(self) -> tuple[Step, ...]:
        """Its stages."""
        return steps_of(self.job)

    @property
    def verdict(self) -> str:
        """What is served from now on, in a few words."""
        return verdict_in_words(self.job)

    @property
    def failure(self) -> str | None:
        """What the code of its error stands for."""
        return None if self.job.error is None else RECORD_CODES.get(self.job.error.code)


def job_view(unit: UnitOfWork, job_id: str) -> JobView:
    """Read a job; raises NotFound."""
    row = unit.jobs.get(job_id)
    model, dataset = unit.models.find(row.model_id), unit.datasets.find(row.dataset_id)
    deliveries = unit.deliveries.of_job(job_id, limit=_DELIVERIES, after=None)
    return JobView(
        job=job_record(row, unit.work.of(job_id)),
        model_name=None if model is None else model.name,
        dataset_name=None if dataset is None else dataset.name,
        events=told(unit.events.newest_but(job_id, LEFT_OUT, limit=_EVENTS)),
        last_event=unit.events.last(job_id),
        deliveries=[delivery_record(one, unit.work.of(one.id)) for one in deliveries],
    )
