"""Jobs: calibrations that are created, watched and read, and the messages to their webhooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from pydantic import PrivateAttr

from fedlas.client.errors import ConflictError, InvalidInput
from fedlas.client.events import LongPoll, events_of, failure_of, until_final
from fedlas.client.options import HasId, JobOptions, check_options, id_of, job_body, path_part
from fedlas.client.predictions import JudgedPredictions
from fedlas.client.problems import Retries
from fedlas.client.stored import Stored
from fedlas.client.transfers import download
from fedlas.client.transport import Pages, Route, Transport
from fedlas.contract.base import Page
from fedlas.contract.events import JobEvent
from fedlas.contract.predictions import JudgedRow, JudgedRows
from fedlas.contract.records import DeliveryRecord, JobRecord

if TYPE_CHECKING:
    from fedlas.client.reports import Report


class Deliveries(Route):
    """`client.jobs.deliveries`: what was sent to the webhook of a job, and what came of it."""

    _path = "/v1/jobs"

    def list(self, job: str | HasId, *, limit: int | None = None) -> Pages[DeliveryRecord]:
        """The messages of a job, newest first."""
        path = f"{self._at(job)}/deliveries"
        return Pages(self._transport, Page[DeliveryRecord], path, {}, limit=limit)

    def resend(self, job: str | HasId, delivery: str | HasId) -> DeliveryRecord:
        """Send a message once more, now; its `webhook-id` stays the same."""
        path = f"{self._at(job)}/deliveries/{path_part(delivery)}/resend"
        return self._transport.read(DeliveryRecord, "POST", path, retries=Retries.NONE)


#: Told of each event of a job.
OnEvent = Callable[[JobEvent], object]


class Job(JobRecord):
    """One calibration: its record, which `wait` and `refresh` bring up to date, and what can be asked of it."""

    _resource: Jobs | None = PrivateAttr(None)
    _notes: list[str] = PrivateAttr(default_factory=list)

    @property
    def _jobs(self) -> Jobs:
        if self._resource is None:
            raise InvalidInput("no_client", f"{self.id} was copied without its client; ask client.jobs.get for it")
        return self._resource

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes: the record, without the client, whose connections stay here."""
        return type(self).from_answer, (self.raw,)

    @property
    def notes(self) -> list[str]:
        """Changes to the objects that were sent, in sentences."""
        return self._notes

    def wait(self, *, on_event: OnEvent | None = None, wait_timeout: float | None = None, check: bool = True) -> Job:
        """Wait for the end, and return this job; see `client.jobs.wait`."""
        return self._become(self._jobs.wait(self, on_event=on_event, wait_timeout=wait_timeout, check=check))

    def refresh(self) -> Job:
        """Ask how it stands now, and return this job."""
        return self._become(self._jobs.get(self))

    def cancel(self) -> Job:
        """Cancel it: at once if it waits, else within seconds."""
        return self._become(self._jobs.cancel(self))

    def delete(self) -> None:
        """Delete it with its report; the model that it made stays."""
        self._jobs.delete(self)

    def events(self, *, after: int = 0) -> Iterator[JobEvent]:
        """Events, oldest first, until its end."""
        return self._jobs.events(self, after=after)

    def report(self) -> Report:
        """The report, once it has succeeded."""
        return self._jobs.report(self)

    def predictions(self) -> JudgedPredictions:
        """The served model's probabilities on the test rows; see `client.jobs.predictions`."""
        return self._jobs.predictions(self)

    def download(self, path: str | PathLike[str] | None = None) -> Path:
        """Write the file of the model to serve to `path`; see `client.models.download`."""
        return self._jobs.download(self, path)

    def _become(self, other: Job) -> Job:
        if other is not self:
            self.__dict__.update(other.__dict__)
            self.__pydantic_fields_set__ = set(other.model_fields_set)
            self.__pydantic_extra__ = other.model_extra
        return self


class Jobs(Stored[Job]):
    """`client.jobs`: calibrations."""

    _path = "/v1/jobs"
    _kind = Job

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.deliveries = Deliveries(transport)

    def create(self, model: str | HasId, dataset: str | HasId, **options: Unpack[JobOptions]) -> Job:
        """Begin the calibration of a stored model on a stored dataset; both may still be inspected."""
        check_options(self.create, JobOptions, options)
        return self._create(model, dataset, options)

    def plan(
        self, model: str | HasId, dataset: str | HasId, *, wait: bool = True, **options: Unpack[JobOptions]
    ) -> Job:
        """Check everything and train nothing: a job whose `plan` says what the same request would do, and take.

        Raises:
            JobFailed: what the job would fail with.
        """
        check_options(self.plan, JobOptions, options)
        job = self._create(model, dataset, options, dry_run="true")
        return job.wait() if wait else job

    def _create(self, model: str | HasId, dataset: str | HasId, options: JobOptions, **params: str) -> Job:
        body = {"model_id": id_of(model), "dataset_id": id_of(dataset), **job_body(options)}
        return self._bound(self._transport.read(Job, "POST", self._path, params=params, json=body, creates=True))

    def cancel(self, job: str | HasId) -> Job:
        """Cancel a job: at once if it waits, else within seconds; raises ConflictError where it has ended."""
        try:
            return self._bound(self._transport.read(Job, "POST", f"{self._at(job)}/cancel"))
        except ConflictError:
            current = self.get(job)
            if current.status == "cancelled":  # perhaps by the try whose answer was lost
                return current
            raise

    def wait(
        self,
        job: str | HasId,
        *,
        on_event: OnEvent | None = None,
        wait_timeout: float | None = None,
        check: bool = True,
    ) -> Job:
        """The job when it has ended.

        Args:
            on_event: called with each event, from the first on; a lost connection goes on where it stopped.
            wait_timeout: seconds; the job goes on when they are up.
            check: raise where it has not succeeded.

        Raises:
            ClientError: JobFailed, JobCancelled, WaitTimeout.
        """
        path = self._at(job)
        poll = LongPoll(wait_timeout)
        if on_event is not None:
            for event in events_of(self._transport, path, after=0, deadline=poll.deadline):
                on_event(event)
        ended = self._bound(until_final(self._transport, Job, path, poll, check=False))
        if check and (error := failure_of(ended)) is not None:
            raise error
        return ended

    def events(self, job: str | HasId, *, after: int = 0) -> Iterator[JobEvent]:
        """Events of a job after event `after`, oldest first, until its end; lost connections do not end it."""
        return events_of(self._transport, self._at(job), after=after, deadline=None)

    def report(self, job: str | HasId) -> Report:
        """The report of a job that has succeeded; raises ConflictError before."""
        from fedlas.client.reports import report_at  # its sixty classes take longer than all the rest of the client

        return report_at(self._transport, f"{self._at(job)}/report")

    def predictions(self, job: str | HasId) -> JudgedPredictions:
        """The probabilities of a job's served model on all test rows, with labels; raises ConflictError before."""
        rows: list[JudgedRow] = []
        while True:
            params = {"split": "test", "limit": 1000, "after": rows[-1].row if rows else -1}
            page = self._transport.read(JudgedRows, "GET", f"{self._at(job)}/predictions", params=params)
            rows += page.data
            if not page.has_more:
                return JudgedPredictions.of(page.class_names, rows)

    def report_html(self, job: str | HasId) -> str:
        """The report as HTML: one file without scripts or references."""
        path = f"{self._at(job)}/report.html"
        return self._transport.request("GET", path, headers={"Accept": "text/html"}).text

    def reliability_svg(self, job: str | HasId) -> str:
        """The reliability diagram."""
        path = f"{self._at(job)}/reliability.svg"
        return self._transport.request("GET", path, headers={"Accept": "image/svg+xml"}).text

    def download(self, job: str | HasId, path: str | PathLike[str] | None = None) -> Path:
        """Write the file of the model to serve to `path`, by default its id with `.onnx`."""
        record = self.get(job)
        if record.calibrated_model_id is None:
            raise InvalidInput("no_model", f"{record.id} is {record.status}; its model exists once it has succeeded")
        served = record.calibrated_model_id
        return download(self._transport, f"/v1/models/{served}/onnx", Path(path or f"{served}.onnx"))

    def _bound(self, job: Job) -> Job:
        job._resource = self
        return job
