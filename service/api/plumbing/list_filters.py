"""The filters of lists as query parameters: `status`, `name`, `created_after`, `created_before`, `metadata.KEY`.

Those that are given hold all together, and pages go on as they do without any.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Query, Request

from service.api.plumbing.routing import ANY_KEY
from service.registry.errors import InvalidRequest
from service.registry.repositories.records import ListFilter

# Without `from __future__ import annotations`: FastAPI could not resolve those of functions that a function makes.


Filters = Callable[..., ListFilter]

_METADATA = "metadata."
_TIME = "A time in RFC 3339, as in the records, or a date: its midnight. UTC where it does not say otherwise."
#: A plus that was not written as `%2B` arrives as a space.
_LOST_PLUS = re.compile(r"(?<=\d) (?=\d\d:\d\d$)")
#: A time begins with its date: a number alone would be read as seconds since 1970, or as a year.
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d|$)", re.IGNORECASE)

After = Annotated[str | None, Query(max_length=40, description=f"Created after this moment. {_TIME}")]
Before = Annotated[str | None, Query(max_length=40, description=f"Created before this moment. {_TIME}")]


def list_filters(statuses: Sequence[str], *, name: str) -> Filters:
    """The dependency that reads the filters of a kind of record; `name` describes what its name is."""
    Status = Annotated[str | None, Query(description="The present status.", json_schema_extra={"enum": [*statuses]})]
    Name = Annotated[str | None, Query(min_length=1, max_length=200, description=name)]

    def filters(
        status: Status = None, name: Name = None, created_after: After = None, created_before: Before = None
    ) -> ListFilter:
        if status is not None and status not in statuses:
            message = f"status is {status[:100]!r}; it is one of {', '.join(statuses)}"
            raise InvalidRequest("invalid_request", message, field="status")
        after, before = _moment("created_after", created_after), _moment("created_before", created_before)
        return ListFilter(status, name, after, before)

    return filters


def with_metadata(filters: Filters) -> Filters:
    """The same, and any number of `metadata.KEY=value`."""
    Metadata = Annotated[
        str | None,
        Query(alias=f"{_METADATA}{ANY_KEY}", description="The value that the job's `metadata` has for KEY; any keys."),
    ]

    def with_words(
        request: Request, found: Annotated[ListFilter, Depends(filters)], metadata: Metadata = None
    ) -> ListFilter:
        given = request.query_params.items()
        words = {name.removeprefix(_METADATA): value for name, value in given if name.startswith(_METADATA)}
        return replace(found, metadata=words)

    return with_words


def _moment(name: str, given: str | None) -> datetime | None:
    """The time that a parameter gives; raises InvalidRequest."""
    if given is None:
        return None
    text = _LOST_PLUS.sub("+", given)
    try:
        if not _DATE.match(text):
            raise ValueError
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        message = f"{name} is {given!r}; needed is a time such as 2026-01-31T12:00:00Z, or a date such as 2026-01-31"
        raise InvalidRequest("invalid_request", message, field=name) from None
