"""One page of a list: at most `limit` records and about a mebibyte, however large each of them is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from fastapi import Query, Response
from pydantic import BaseModel

from service.registry.errors import InvalidRequest

#: Records are made and written one by one until there are so many bytes; the page holds at least one.
MOST_BYTES = 1024**2

Limit = Annotated[
    int, Query(ge=1, le=1000, description="Records per page at most; one of about 1 MiB ends before that.")
]
After = Annotated[
    str | None,
    Query(max_length=100, description="Continue after this id, whether or not its record is still there."),
]


def page_of(records: Iterable[BaseModel], limit: int, *, headers: dict[str, str] | None = None) -> Response:
    """Answer the first of these; there must be one more than `limit` among them where more follow."""
    return json_page((record.model_dump_json().encode() for record in records), limit, headers=headers)


def json_page(records: Iterable[bytes], limit: int, *, headers: dict[str, str] | None = None) -> Response:
    """The same for records that are JSON already."""
    written: list[bytes] = []
    size, has_more = 0, False
    for record in records:
        if len(written) == limit or (written and size + len(record) > MOST_BYTES):
            has_more = True
            break
        written.append(record)
        size += len(record) + 1
    content = b'{"data":[%b],"has_more":%b}' % (b",".join(written), b"true" if has_more else b"false")
    return Response(content, media_type="application/json", headers=headers)


def cursor(after: str | None, prefix: str) -> str | None:
    """The id after which a page begins; raises InvalidRequest for what can be none.

    Ids sort by time, so that a page goes on where a record stood that was deleted meanwhile.
    """
    if after is None or re.fullmatch(rf"{prefix}_[0-9a-z]{{26}}", after):
        return after
    message = f"after is {after!r}; needed is an id of this list, such as the last one of the page before"
    raise InvalidRequest("invalid_cursor", message, field="after")
