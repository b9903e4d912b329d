"""Records of the client as the JSON that the API answered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fedlas.cli.output import Json


def as_json(record: Any) -> Json:
    """A record with the fields that the API sent, whether this client knows them or not."""
    found: Json = record.raw
    return found


def as_jsons(records: Iterable[Any]) -> Iterator[Json]:
    """The records of a list, each as soon as its page is there."""
    return map(as_json, records)
