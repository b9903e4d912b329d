"""The page of an order as it is shown: the model, the dataset, what a dry run of them has found, and the form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple
from urllib.parse import urlencode

from service.registry.contract import FINAL, DatasetRecord, JobRecord, ModelRecord
from service.registry.presenters import dataset_record, job_record, model_record
from service.registry.unit_of_work import UnitOfWork
from service.web.fit import misfits
from service.web.form_fields import FormState
from service.web.order_fields import fields_of, suggested_name

_CHOICES = 50


class Choice(NamedTuple):
    """A record that can be taken in place of a file."""

    id: str
    name: str
    created_at: datetime


@dataclass(frozen=True)
class Choices:
    """The newest models and datasets that are ready."""

    models: Sequence[Choice] = ()
    datasets: Sequence[Choice] = ()

    @classmethod
    def read(cls, unit: UnitOfWork) -> Choices:
        """Those of the registry."""
        models, datasets = (kind.choices(limit=_CHOICES) for kind in (unit.models, unit.datasets))
        return cls([Choice(*row) for row in models], [Choice(*row) for row in datasets])


@dataclass(frozen=True)
class OrderPage:
    """What an order is made of, as far as it is there.

    Attributes:
        check: a dry run of the two, whose order the form shows.
        choices: what can be taken in place of a file, where one is needed.
        evaluations: how often the test rows of the dataset have judged.
        gone: `model` or `dataset`, where the address names one that is not there.
    """

    model: ModelRecord | None = None
    dataset: DatasetRecord | None = None
    check: JobRecord | None = None
    choices: Choices = field(default_factory=Choices)
    evaluations: int = 0
    gone: frozenset[str] = frozenset()

    @classmethod
    def read(cls, unit: UnitOfWork, model_id: str | None, dataset_id: str | None, check_id: str | None) -> OrderPage:
        """The records that an address names, as far as they are still there."""
        model_row = unit.models.find(model_id) if model_id else None
        dataset_row = unit.datasets.find(dataset_id) if dataset_id else None
        model = model_record(unit, model_row) if model_row is not None else None
        dataset = dataset_record(unit, dataset_row) if dataset_row is not None else None
        named = (("model", model_id, model), ("dataset", dataset_id, dataset))
        gone = frozenset(noun for noun, record_id, record in named if record_id and record is None)
        job = unit.jobs.find(check_id) if check_id else None
        check = job_record(unit, job, unit.work.of(job.id)) if job is not None else None
        if check is not None and (check.model_id, check.dataset_id, check.dry_run) != (model_id, dataset_id, True):
            check = None  # of another order
        evaluations = unit.ledger.evaluations(dataset_row.sha256) if dataset_row is not None else 0
        shown = cls(model, dataset, check, evaluations=evaluations, gone=gone)
        return shown if shown.is_ready else replace(shown, choices=Choices.read(unit))

    @property
    def query(self) -> str:
        """The address of these records, after the question mark."""
        records = {"model": self.model, "dataset": self.dataset, "check": self.check}
        return urlencode({name: one.id for name, one in records.items() if one is not None})

    @property
    def is_settled(self) -> bool:
        """Whether inspection is through with both."""
        both = (self.model, self.dataset)
        return all(one is not None and one.status in FINAL for one in both)

    @property
    def is_awaited(self) -> bool:
        """Whether both are there, and inspection is not through with both."""
        return self.model is not None and self.dataset is not None and not self.is_settled

    @property
    def is_ready(self) -> bool:
        """Whether both can be used."""
        both = (self.model, self.dataset)
        return all(one is not None and one.status == "ready" for one in both)

    @property
    def misfits(self) -> list[str]:
        """What does not belong together."""
        if self.model is None or self.dataset is None:
            return []
        return misfits(self.model, self.dataset)

    @property
    def form(self) -> FormState:
        """The order's form before anything was entered: what was checked, else what one would want."""
        if self.check is not None:
            return FormState(fields_of(self.check))
        return FormState({"publish_as": suggested_name(self.model.name) if self.model is not None else ""})
