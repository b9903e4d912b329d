"""Versions: an older client reads what a newer server answers, and an older server refuses what it does not know."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from fedlas.contract import events, records
from fedlas.contract.base import ANOTHER_VERSION, Page
from fedlas.contract.events import JOB_EVENT, JobEvent, Progress, ProgressEvent, UnknownEvent
from fedlas.contract.records import DatasetRecord, JobRecord, ModelRecord
from fedlas.contract.requests import JobRequest

AT = "2026-05-04T10:00:00Z"
MODEL = {
    "id": "mdl_1",
    "name": "m",
    "version": 1,
    "status": "ready",
    "origin": "uploaded",
    "bytes": 1,
    "sha256": "0",
    "created_at": AT,
    "calibrated": True,
    "format": None,
}


def newer(content: Any) -> JobEvent:
    """The event as a client reads it."""
    return JOB_EVENT.validate_python(content, extra="allow", context=ANOTHER_VERSION)


def test_a_new_status_and_a_new_field_are_read_as_they_came() -> None:
    """The words of an enumeration and the fields of a record may grow; all come back in `raw`."""
    answer = {**MODEL, "status": "resting", "origin": "grown", "mood": {"good": [1]}}
    model = ModelRecord.from_answer(answer)
    assert (model.status, model.origin, model.raw) == ("resting", "grown", answer)
    assert getattr(model, "mood") == {"good": [1]}  # noqa: B009  # a field that this version does not know
    with pytest.raises(ValidationError, match="status"):
        ModelRecord.model_validate(answer)


def test_a_new_kind_of_event_is_an_unknown_event() -> None:
    """An unknown event keeps its type and all of its content; without the permission to be newer it is an error."""
    dance = {"id": 7, "at": AT, "type": "dance", "data": {"steps": 3}}
    event = newer(dance)
    assert isinstance(event, UnknownEvent)
    assert (event.id, event.type, event.raw) == (7, "dance", dance)
    with pytest.raises(ValidationError, match="dance"):
        JOB_EVENT.validate_python(dance)


def test_a_known_event_with_a_new_field_is_what_it_is() -> None:
    """A field more does not make it unknown; data of another shape does."""
    event = newer({"id": 1, "at": AT, "type": "progress", "data": {"fraction": 0.5, "mood": "x"}})
    assert isinstance(event, ProgressEvent)
    assert event.data == Progress.from_answer({"fraction": 0.5, "mood": "x"})
    assert isinstance(newer({"id": 1, "at": AT, "type": "progress", "data": ["half"]}), UnknownEvent)


def test_a_page_of_newer_events_is_read_whole() -> None:
    """One unknown event does not cost the others."""
    content = {"data": [{"id": 2, "at": AT, "type": "dance", "data": {}}, {"id": 1, "at": AT, "type": "status"}]}
    content["data"][1]["data"] = {"status": "running"}
    page = TypeAdapter(Page[JobEvent]).validate_python(
        {**content, "has_more": False, "next": None}, extra="allow", context=ANOTHER_VERSION
    )
    assert [event.type for event in page.data] == ["dance", "status"]


def test_a_request_of_a_newer_client_is_refused_by_name() -> None:
    """A field or word that this server does not know is an error, never a silent no-op."""
    asked = {"model_id": "mdl_1", "dataset_id": "ds_1"}
    for more in ({"patience": 3}, {"method": "prayer"}, {"gate": {"score": "x"}}):
        with pytest.raises(ValidationError, match=next(iter(more))):
            JobRequest.model_validate({**asked, **more})


def test_answers_are_open_and_requests_closed_in_their_schemas() -> None:
    """A generated client passes over what a newer server adds, and knows that a request takes nothing else."""
    for record in (ModelRecord, DatasetRecord, JobRecord):
        schema = record.model_json_schema(mode="serialization")
        assert "additionalProperties" not in schema, record
        assert {"type": "string"} in schema["properties"]["status"]["anyOf"], record
    assert JobRequest.model_json_schema()["additionalProperties"] is False
    assert "anyOf" not in JobRequest.model_json_schema()["properties"]["method"]


def test_every_event_is_a_member_of_the_union() -> None:
    """A class of an event that nobody could read does not exist."""
    union = get_args(JobEvent)[0]
    assert {*get_args(union), UnknownEvent} == set(events.Event.__subclasses__())


def test_final_statuses_are_those_of_the_records() -> None:
    """`FINAL` names statuses that records have."""
    kinds = (records.UploadStatus, records.JobStatus, records.BatchStatus, records.CalibratorStatus)
    assert {status for kind in kinds for status in get_args(kind)} >= records.FINAL
