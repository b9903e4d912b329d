"""Streams of events are read as the standard says."""

from __future__ import annotations

import pytest

from fedlas.client.records.events import Event
from fedlas.client.server_sent_events import EventReader

#: What Python takes for line ends, and what ends no line of a stream.
TEXT = "a\u2028b\u2029c\x85d\x0be\x0cf"


def stream(end: str) -> str:
    """Comments, fields that do not matter, and two events of which one comes in two lines of data."""
    one = Event.model_validate({"id": 1, "type": "odd", "at": "2026-05-04T10:00:00Z", "data": {"text": TEXT}})
    two = '{"id":2,"type":"stage",', '"at":"2026-05-04T10:00:00Z","data":{"stage":"training"}}'
    lines = [": here", "", "id: 1", "event: odd", f"data: {one.model_dump_json()}", ""]
    lines += [f"data:{two[0]}", f"data: {two[1]}"]
    return end.join([*lines, "", ""])


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_come_through_however_they_are_cut(end: str, size: int) -> None:
    """In pieces of any size, with any end of line, and with characters that end a line elsewhere."""
    reader, text = EventReader(), stream(end)
    events = [event for at in range(0, len(text), size) for event in reader.feed(text[at : at + size])]
    events += reader.feed("\n")
    assert [event.id for event in events] == [1, 2]
    assert events[0].data == {"text": TEXT}
