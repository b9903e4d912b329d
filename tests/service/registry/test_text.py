"""Text that no database stores and no answer carries is refused at the contract, and never reaches the database."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from fedlas.contract.base import Strict, Text, objection_within, texts
from fedlas.contract.requests import BatchRequest, JobOptions, JobRequest
from service.registry import tables
from service.registry.errors import InvalidRequest, NotFound
from service.registry.registry import Registry
from service.registry.tables import new_id, now

ODD = ["\0", "a\0b", "\ud800", "a\udfff", "\udc00\ud800"]
SOUND = ["", "a", "Zoë", "🐈", "a\n\tb", "\U0010ffff", "\ufffd"]


@pytest.mark.parametrize("text", ODD, ids=ascii)
@pytest.mark.parametrize(
    ("request_type", "content"),
    [
        (JobRequest, lambda text: {"model_id": text, "dataset_id": "ds_1"}),
        (JobRequest, lambda text: {"model_id": "mdl_1", "dataset_id": text}),
        (JobOptions, lambda text: {"metadata": {"key": text}}),
        (JobOptions, lambda text: {"metadata": {text: "value"}}),
        (JobOptions, lambda text: {"publish_as": text}),
        (BatchRequest, lambda text: {"model": text, "dataset_id": "ds_1"}),
        (BatchRequest, lambda text: {"model": "m", "dataset_id": "ds_1", "coverage": {text: 0.9}}),
        (BatchRequest, lambda text: {"model": "m", "dataset_id": "ds_1", "decision": {"costs": [[{"a": text}]]}}),
    ],
    ids=["model", "dataset", "metadata", "its names", "published name", "model of a batch", "class", "decision"],
)
def test_requests_hold_text_that_can_be_kept(request_type: type[Strict], content: Any, text: str) -> None:
    """Wherever it stands in a request, text with NUL or half a surrogate pair is an error of the sender's."""
    with pytest.raises(ValidationError) as caught:
        request_type.model_validate(content(text))
    assert caught.value.errors()[0]["loc"]


def test_sound_text_is_left_as_it_is() -> None:
    """Other text, line ends and characters beyond the basic plane among it, is kept as it was sent."""
    asked = JobOptions(metadata={f"{number}{text}": text for number, text in enumerate(SOUND)})
    assert list(asked.metadata.values()) == SOUND
    assert TypeAdapter(Text).validate_python("a\nb") == "a\nb"
    with pytest.raises(ValidationError, match="cannot be kept"):
        TypeAdapter(Text).validate_python("a\0b")


def test_metadata_is_bounded() -> None:
    """Fifty words with names of 64 and values of 512 characters are kept, and nothing beyond that."""
    most = {f"{number:064}": "x" * 512 for number in range(50)}
    assert JobOptions(metadata=most).metadata == most
    for beyond in (most | {"one": "more"}, {"x" * 65: ""}, {"x": "y" * 513}):
        with pytest.raises(ValidationError):
            JobOptions(metadata=beyond)


def test_every_text_of_a_value_is_found() -> None:
    """Names and values of members and items of lists are looked at, however deep they stand."""
    deep: Any = ["in"]
    for _ in range(5000):
        deep = [deep]
    assert sorted(texts({"a": ["b", {"c": ("d", 1, None)}], "e": deep})) == ["a", "b", "c", "d", "e", "in"]
    assert objection_within([1, 2.5, None, True, b"\0"]) is None


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_such_text_never_reaches_the_database(registry: Registry, text: str) -> None:
    """Under such text nothing is found, on SQLite as on PostgreSQL, and nothing is written under it."""
    with registry.read() as unit:
        for look in (unit.models.get, unit.names.resolve, unit.names.get):
            with pytest.raises(NotFound):
                look(text)
        assert [unit.jobs.find(text), unit.uploads.find(text)] == [None, None]
    row = tables.Dataset(
        id=new_id("ds"), name=text, bytes=1, sha256="0" * 64, options={}, status="ready", created_at=now()
    )
    with pytest.raises(InvalidRequest, match="cannot be kept"), registry.write() as unit:
        unit.datasets.add(row)
    row.name, row.options = "d", {"roles": {"slices": [text]}}
    with pytest.raises(InvalidRequest, match="cannot be kept"), registry.write() as unit:
        unit.datasets.add(row)
    with pytest.raises(InvalidRequest, match="cannot be kept"), registry.write() as unit:
        unit.names.load(text)
    with registry.read() as unit:
        assert list(unit.datasets.newest(limit=10, after=None)) == []
