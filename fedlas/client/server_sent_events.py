"""Server-sent events: the text of a stream, read as the standard says (html.spec.whatwg.org, server-sent events)."""

from __future__ import annotations

import re

from fedlas.client.records.events import Event

#: Nothing else ends a line: the data may hold what Python and others take for line ends, too.
_LINE_END = re.compile(r"\r\n|\n|\r(?!\Z)")


class EventReader:
    """Reads events as their text arrives; of a field only the data matters, which holds the whole record.

    >>> reader = EventReader()
    >>> record = '{"id":1,"type":"stage","at":"2026-05-04T10:00:00Z","data":{"stage":"training"}}'
    >>> reader.feed(f": connected\\n\\nid: 1\\ndata: {record[:20]}")
    []
    >>> [(event.id, event.type) for event in reader.feed(f"{record[20:]}\\n\\n")]
    [(1, 'stage')]
    """

    def __init__(self) -> None:
        self._rest = ""
        self._data: list[str] = []

    def feed(self, text: str) -> list[Event]:
        """The events that end within this text; raises ValueError for one that cannot be read."""
        *lines, self._rest = _LINE_END.split(self._rest + text)
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: str) -> Event | None:
        """The event that ends with this line; comments keep the connection open."""
        if line:
            name, _, value = line.partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            return None
        data, self._data = "\n".join(self._data), []
        return Event.model_validate_json(data) if data else None
