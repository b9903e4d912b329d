"""Server-sent events: the lines of a stream, read as the standard says (html.spec.whatwg.org, server-sent events)."""

from __future__ import annotations

from collections.abc import Iterable

from fedlas.client.records.events import Event


class EventReader:
    """Reads events line by line; of a field only the data matters, which holds the whole record."""

    def __init__(self) -> None:
        self._data: list[str] = []

    def feed(self, line: str) -> Event | None:
        """The event that ends with this line; None where none does. Comments keep the connection open."""
        if line:
            name, _, value = line.partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            return None
        data, self._data = "\n".join(self._data), []
        return Event.model_validate_json(data) if data else None

    def feed_all(self, lines: Iterable[str]) -> list[Event]:
        """The events of these lines.

        >>> reader = EventReader()
        >>> record = '{"id":1,"type":"stage","at":"2026-05-04T10:00:00Z","data":{"stage":"training"}}'
        >>> [event] = reader.feed_all([": connected", "", "id: 1", f"data: {record}", ""])
        >>> event.id, event.type
        (1, 'stage')
        """
        return [event for line in lines if (event := self.feed(line)) is not None]
