"""The routes that every kind of record has: its list with filters, one record, which may be awaited, and its deletion.

Beside them the creation of a record from a file that a request brings along, with its options in query and form.
Filters that are given hold all together, and pages go on as they do without any.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar, get_args

from anyio import from_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel

from fedlas.contract.base import Document, JsonObject, Page
from fedlas.contract.records import FINAL
from service.api.plumbing.declarations import BINARY, CREATED, KEYED, RECEIVED, operation
from service.api.plumbing.idempotency import Creation, Key, create_once, reserved
from service.api.plumbing.options import Options, query_parameters, read_options, stored_options
from service.api.plumbing.receiving import ReceivedFile, receive_file
from service.api.plumbing.responses import RETRY_AFTER_S, After, Limit, Record, cursor, page_of, tagged
from service.api.plumbing.routing import ANY_KEY
from service.api.plumbing.services import Services, ServicesDep
from service.registry import tables
from service.registry.errors import InvalidRequest
from service.registry.registry import UnitOfWork
from service.registry.repositories.records import ListFilter, Records

# Without `from __future__ import annotations`: FastAPI could not resolve those of functions that a function makes.


Filters = Callable[..., ListFilter]

_METADATA = re.compile(r"metadata\[(.+)\]")
_TIME = "A time in RFC 3339, as in the records, or a date: its midnight. UTC where it does not say otherwise."
#: A plus that was not written as `%2B` arrives as a space.
_LOST_PLUS = re.compile(r"(?<=\d) (?=\d\d:\d\d$)")
#: A time begins with its date: a number alone would be read as seconds since 1970, or as a year.
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d|$)", re.IGNORECASE)


def list_filters(statuses: Sequence[str], *, name: str) -> Filters:
    """The dependency that reads the filters of a kind of record; `name` describes what its name is."""
    Status = Annotated[
        str | None,
        Query(description="Only records that have this status now.", json_schema_extra={"enum": [*statuses]}),
    ]
    Name = Annotated[str | None, Query(min_length=1, max_length=200, description=name)]

    def filters(
        status: Status = None,
        name: Name = None,
        created_after: Annotated[
            str | None, Query(max_length=40, description=f"Created after this moment. {_TIME}")
        ] = None,
        created_before: Annotated[
            str | None, Query(max_length=40, description=f"Created before this moment. {_TIME}")
        ] = None,
    ) -> ListFilter:
        if status is not None and status not in statuses:
            message = f"status is {status[:100]!r}; it is one of {', '.join(statuses)}"
            raise InvalidRequest("invalid_request", message, field="status")
        after, before = _moment("created_after", created_after), _moment("created_before", created_before)
        return ListFilter(status, name, after, before)

    return filters


def with_metadata(filters: Filters) -> Filters:
    Metadata = Annotated[
        str | None,
        Query(
            alias=f"metadata[{ANY_KEY}]",
            description="Only jobs whose `metadata` has this value for the key: `metadata[team]=vision`; any keys.",
        ),
    ]

    def with_words(
        request: Request, listed: Annotated[ListFilter, Depends(filters)], metadata: Metadata = None
    ) -> ListFilter:
        given = request.query_params.items()
        words = {match[1]: value for name, value in given if (match := _METADATA.fullmatch(name))}
        return replace(listed, metadata=words)

    return with_words


def _moment(name: str, given: str | None) -> datetime | None:
    if given is None:
        return None
    text = _LOST_PLUS.sub("+", given)
    try:
        if not _DATE.match(text):
            raise ValueError
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        message = f"{name} is {given!r}; expected a time such as 2026-01-31T12:00:00Z, or a date such as 2026-01-31"
        raise InvalidRequest("invalid_request", message, field=name) from None


Wait = Annotated[float | None, Query(ge=0, le=60, description="Long poll: seconds to wait for a final state.")]
WEIGHTS: JsonObject = {
    **BINARY,
    "description": "The file of an ONNX graph's weights, under the name that the graph states.",
}
#: OpenAPI: the forms with a file, and those with a model.
_FILE_FORM: JsonObject = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": {**BINARY, "description": "The bytes of the file to store."}},
}
MODEL_FORM: JsonObject = {
    "type": "object",
    "properties": {
        "file": {**BINARY, "description": "The file of the model to store."},
        "model": {**BINARY, "description": "The file of the model, by another name."},
        "data": WEIGHTS,
    },
}
Row = TypeVar("Row", bound=tables.Entity)


def uploading(
    kind: type[Document], *codes: str, at: Mapping[int, Sequence[str]] | None = None, form: JsonObject = _FILE_FORM
) -> JsonObject:
    """The declaration of an operation that makes a record of a file: the raw body, or a part of a form.

    `kind`: of the options in the query.
    """
    body: JsonObject = {
        "description": "The file as it is, or as a part of a form whose other parts are the parameters.",
        "required": True,
        "content": {"application/octet-stream": {"schema": BINARY}, "multipart/form-data": {"schema": form}},
    }
    return operation(
        *RECEIVED,
        *KEYED,
        *codes,
        at=at,
        headers={201: CREATED},
        more={"requestBody": body, "parameters": query_parameters(kind)},
    )


@dataclass(frozen=True)
class RecordRoutes(Generic[Row]):
    """Adds the common routes of one kind of record to its router.

    Attributes:
        noun: in the names of operations and parameters, as is `plural`.
        prefix: of its ids.
        rows: its repository within a transaction.
        show: a row as its public record.
        find: the row that a path means; by default by its id.
    """

    router: APIRouter
    noun: str
    plural: str
    prefix: str
    record: type[Record]
    rows: Callable[[UnitOfWork], Records[Row]]
    show: Callable[[UnitOfWork, Row], Record]
    find: Callable[[UnitOfWork, str], Row] | None = None

    @property
    def unknown(self) -> str:
        return "unknown_prediction" if self.noun == "batch" else f"unknown_{self.noun}"

    def found(self, unit: UnitOfWork, given: str) -> Row:
        return self.rows(unit).get(given) if self.find is None else self.find(unit, given)

    @property
    def parameter(self) -> str:
        return f"{self.noun}_id"

    def add_list(self, name: str, *, metadata: bool = False) -> None:
        """`GET` of the collection, filtered; `name` describes what its parameter `name` is."""
        filters = list_filters(get_args(self.record.model_fields["status"].annotation), name=name)
        if metadata:
            filters = with_metadata(filters)

        def list_records(
            services: ServicesDep,
            only: Annotated[ListFilter, Depends(filters)],
            limit: Limit = 20,
            after: After = None,
        ) -> Response:
            after = cursor(after, self.prefix)
            with services.registry.read() as unit:
                rows = self.rows(unit).listed(only, limit=limit + 1, after=after)
                page = page_of((self.show(unit, row) for row in rows), limit, lambda record: record.id)
            from_thread.run(services.follow_served)
            return page

        self.router.add_api_route(
            "",
            list_records,
            name=f"list_{self.plural}",
            description=f"List the {self.plural}, newest first.",
            openapi_extra=operation("invalid_cursor"),
            response_model=Page.__class_getitem__(self.record),
        )

    def add_get(self, final: str, seen: Callable[[Services, str, Row], Awaitable[None]] | None = None) -> None:
        """`GET` of one record, which `wait` holds until it is `final`; `seen` is awaited before the answer.

        `seen` is given what stands in the path, and the row.
        """

        async def get_record(
            request: Request,
            services: ServicesDep,
            record_id: Annotated[str, Path(alias=self.parameter)],
            wait: Wait = None,
        ) -> Response:
            def read(unit: UnitOfWork) -> tuple[Row, Record]:
                row = self.found(unit, record_id)
                return row, self.show(unit, row)

            row, record = await services.read(read)
            if wait and record.status not in FINAL:
                await services.long_poll.for_final(row.id, wait)
                row, record = await services.read(read)
            if seen is not None:
                await seen(services, record_id, row)
            return tagged(request, record, headers={} if record.status in FINAL else {"Retry-After": RETRY_AFTER_S})

        self.router.add_api_route(
            f"/{{{self.parameter}}}",
            get_record,
            name=f"get_{self.noun}",
            description=f"Return one {self.noun}; `wait` returns as soon as it {final}.",
            response_model=self.record,
            openapi_extra=operation(self.unknown, headers={200: ["Retry-After"]}, tagged=True),
        )

    def add_delete(
        self,
        delete: Callable[[UnitOfWork, str], list[str]],
        description: str,
        *,
        refused: str = "not_finished",
    ) -> None:
        """`DELETE` of one record; `delete` returns the files that nothing references any more.

        `refused` is the code where its state forbids that.
        """

        def delete_record(services: ServicesDep, record_id: Annotated[str, Path(alias=self.parameter)]) -> None:
            with services.registry.write() as unit:
                unit.after_commit.unreferenced += delete(unit, record_id)

        self.router.add_api_route(
            f"/{{{self.parameter}}}",
            delete_record,
            methods=["DELETE"],
            name=f"delete_{self.noun}",
            description=description,
            status_code=204,
            response_class=Response,
            openapi_extra=operation(self.unknown, refused),
        )


async def create_from_file(
    request: Request,
    services: Services,
    key: Key | None,
    kind: type[Options],
    add: Callable[[UnitOfWork, ReceivedFile, Options, JsonObject], Row],
    show: Callable[[UnitOfWork, Row], BaseModel],
    parts: Collection[str] = ("file",),
    *,
    stored: Callable[[Options], JsonObject] = stored_options,
) -> tuple[Creation, Options]:
    """Receive the file and create its record, once per key.

    Args:
        kind: of the options, which stand in the query and in the other parts of a form.
        add: keeps the file and inserts its row; the last argument is what the options say as it is stored.
        show: the row as its public record.
        parts: of a form, which are files.
        stored: the options as they are kept; raises InvalidRequest.

    Returns:
        The record, and all options.
    """
    query = dict(request.query_params)
    read_options(kind, query)  # before a file is received in vain
    async with reserved(services, key) as held:
        with ExitStack() as stack:
            upload_id = query.get("upload_id")
            file, texts = await receive_file(request, services, stack, upload_id=upload_id, parts=parts)
            given = read_options(kind, {**query, **texts})
            kept = stored(given)
            content = [file.fingerprint, given.model_dump_json(exclude={"wait"})]
            answer = await create_once(services, held, content, lambda unit: show(unit, add(unit, file, given, kept)))
    return answer, given
