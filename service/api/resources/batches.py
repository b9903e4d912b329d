"""`/v1/batches`: predictions by a worker over a stored dataset, and their results.

Results are parts that a manifest names, each looked at before anything of it is believed. A batch that was done at once
has one part, and no manifest is stored for it: it is made here.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import StreamingResponse
from pyarrow.parquet import ParquetFile
from pydantic import ValidationError
from pydantic_core import to_json

from fedlas.contract.options import AnswerOptions
from fedlas.contract.predictions import BatchManifest, PredictionList, ResultPart
from fedlas.contract.records import FINAL, BatchRecord
from fedlas.contract.requests import BatchRequest
from service.api.plumbing.declarations import BINARY, CREATED, KEYED, OPTIONS_REFUSED, STORED, operation
from service.api.plumbing.idempotency import IdempotencyKey, Key, create_once
from service.api.plumbing.records import RecordRoutes
from service.api.plumbing.responses import (
    MAX_BYTES,
    Limit,
    created,
    downloading,
    etag_matches,
    json_page,
    stored_file,
    tagged,
)
from service.api.plumbing.routing import Route
from service.api.plumbing.services import Services, ServicesDep
from service.http.problems import named_by_body
from service.predict.engine.profile import ServingProfile
from service.predict.formats.predictions import DecisionPolicy
from service.predict.formats.result_tables import Writer, csv, ndjson, parquet, read_page
from service.registry import tables
from service.registry.artifacts import ArtifactStore
from service.registry.errors import Conflict, NotFound, Unavailable
from service.registry.presenters import batch_record
from service.registry.registry import Registry, UnitOfWork, find_model, priors_of
from service.registry.tables import new_id, now

#: Rows that are looked at to learn how large they are: with `top_k` of a thousand classes one has 60 KB.
_FIRST_ROWS = 16


@dataclass(frozen=True)
class BatchResults:
    """The results of one batch.

    Attributes:
        digest: what they are known by: of the manifest, or of the single file.
        manifest: whose parts have not been looked at yet.
    """

    artifacts: ArtifactStore
    digest: str
    manifest: BatchManifest

    @classmethod
    def of(cls, registry: Registry, batch_id: str) -> BatchResults:
        """Results of this batch; raises NotFound, Conflict before there are any, Unavailable for a wrong manifest."""
        with registry.read() as unit:
            row = unit.batches.get(batch_id)
            if row.manifest_sha256 is not None:
                manifest = _stored(registry.artifacts, row, unit.pieces.digests(batch_id))
                return cls(registry.artifacts, row.manifest_sha256, manifest)
            if row.results_sha256 is None:
                message = f"{batch_id} is {row.status}; results exist once it has succeeded"
                raise Conflict("no_results", message, passing=row.status not in FINAL)
            return cls(registry.artifacts, row.results_sha256, _made(registry.artifacts, row, unit))

    def part(self, number: int) -> ResultPart:
        """One part, which has been looked at; raises NotFound, and Unavailable where it is not what it should be."""
        parts = self.manifest.parts
        if not 0 <= number < len(parts):
            message = f"{self.manifest.batch_id} has the parts 0 to {len(parts) - 1}, and no part {number}"
            raise NotFound("unknown_results_part", message)
        self.path(parts[number])
        return parts[number]

    def path(self, part: ResultPart) -> Path:
        """The file of a part: as large as it should be, with the rows that it should have."""
        with self._reading(part):
            path = self.artifacts.path(part.sha256)
            if (size := path.stat().st_size) != part.bytes:
                raise ValueError(f"it has {size} bytes, not {part.bytes}")
            with ParquetFile(path) as file:
                if (rows := _rows_of(file)) != part.rows:
                    raise ValueError(f"it holds the rows {rows}, not {part.rows}")
        return path

    def files(self) -> Iterator[ParquetFile]:
        """All parts, one after the other; each is looked at again when it is its turn."""
        for part in self.manifest.parts:
            yield ParquetFile(self.path(part), page_checksum_verification=True)

    def check(self) -> None:
        """Look at every part; raises Unavailable where one is damaged, or has other columns than the first."""
        schemas = [pq.read_schema(self.path(part)) for part in self.manifest.parts]
        if any(schema != schemas[0] for schema in schemas):
            raise _damaged(f"the parts of {self.manifest.batch_id} are not of one file: their columns differ")

    def rows(self, start: int, limit: int) -> Iterator[tuple[int, bytes]]:
        """At most `limit` rows from this one on: the number of each, and its JSON.

        They are read in pieces of about a page: a group of a file is read for each piece, in 12 ms.
        """
        stop, some = min(start + limit, self.manifest.num_rows), _FIRST_ROWS
        while start < stop:
            rows = self._page(start, min(some, stop - start))
            written = [to_json(row, inf_nan_mode="null") for row in rows]
            yield from enumerate(written, start)
            start += len(rows)
            some = max(1, MAX_BYTES * len(rows) // max(1, sum(map(len, written))))

    def _page(self, start: int, limit: int) -> list[dict[str, object]]:
        """Some rows of the part that holds the first of them, one at least."""
        parts = self.manifest.parts
        part = parts[bisect_right(parts, start, key=lambda part: part.first_row) - 1]
        path = self.path(part)
        with self._reading(part):
            return read_page(path, start=start - part.first_row, limit=limit)[0]

    @contextmanager
    def _reading(self, part: ResultPart) -> Iterator[None]:
        where = f"part {part.number} of {self.manifest.batch_id}"
        try:
            yield
        except NotFound as error:
            raise NotFound(error.code, f"{where}: {error.message}") from error
        except (ValueError, IndexError, OSError, pa.ArrowException) as error:
            raise _damaged(f"{where} (file {part.sha256[:12]}…) is damaged: {error}") from error


def _rows_of(file: ParquetFile) -> range:
    metadata = file.metadata
    first, last = (metadata.row_group(i).column(0).statistics for i in (0, metadata.num_row_groups - 1))
    if metadata.schema.column(0).name != "row" or first is None or last is None:
        raise ValueError("its first column does not number its rows")
    if last.max - first.min + 1 != metadata.num_rows:
        raise ValueError(f"it has {metadata.num_rows} rows, numbered {first.min} to {last.max}")
    return range(first.min, last.max + 1)


def _stored(artifacts: ArtifactStore, row: tables.Batch, delivered: Sequence[str | None]) -> BatchManifest:
    """The manifest of a batch, which agrees with itself, with its digest, and with what workers have delivered."""
    assert row.manifest_sha256 is not None
    content = artifacts.path(row.manifest_sha256).read_bytes()
    if hashlib.sha256(content).hexdigest() != row.manifest_sha256:
        raise _damaged(f"the manifest of {row.id} is damaged: its content has another digest")
    try:
        manifest = BatchManifest.model_validate_json(content)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise _damaged(f"the manifest of {row.id} is none: {reason}") from error
    if (manifest.batch_id, manifest.num_rows) != (row.id, row.num_rows):
        raise _damaged(f"the manifest of {row.id} is of {manifest.batch_id} with {manifest.num_rows} rows")
    if len(manifest.parts) != len(delivered):
        raise _damaged(f"the manifest of {row.id} has {len(manifest.parts)} parts; {len(delivered)} were delivered")
    for part, digest in zip(manifest.parts, delivered, strict=True):
        if part.sha256 != digest:
            raise _damaged(f"the manifest of {row.id} names another file as part {part.number} than was delivered")
    return manifest


def _made(artifacts: ArtifactStore, row: tables.Batch, unit: UnitOfWork) -> BatchManifest:
    assert row.results_sha256 is not None
    model, dataset = unit.models.find(row.model_id), unit.datasets.find(row.dataset_id)
    path = artifacts.path(row.results_sha256)
    with ParquetFile(path) as file:
        rows = file.metadata.num_rows
    return BatchManifest(
        batch_id=row.id,
        model_sha256=model and model.sha256,
        dataset_sha256=dataset and dataset.sha256,
        num_rows=rows,
        num_errors=row.num_errors,
        parts=[ResultPart(number=0, first_row=0, num_rows=rows, bytes=path.stat().st_size, sha256=row.results_sha256)],
    )


def _damaged(message: str) -> Unavailable:
    return Unavailable("artifact_damaged", message)


router = APIRouter(route_class=Route, prefix="/v1/batches", tags=["predictions"])

Format = Literal["parquet", "ndjson", "csv"]
PARQUET = "application/vnd.apache.parquet"
_MEDIA_TYPES: dict[Format, str] = {"parquet": PARQUET, "ndjson": "application/x-ndjson", "csv": "text/csv"}
_WRITERS: dict[Format, Writer] = {"parquet": parquet, "ndjson": ndjson, "csv": csv}


@router.post(
    "",
    status_code=202,
    response_model=BatchRecord,
    openapi_extra=operation(
        *(*KEYED, *OPTIONS_REFUSED),
        at={422: ["unknown_model", "unknown_dataset"]},
        headers={202: [*CREATED, "Retry-After"]},
    ),
)
async def create_batch(services: ServicesDep, body: BatchRequest, key: IdempotencyKey = None) -> Response:
    """Predict all rows of a stored dataset; a worker carries it out."""

    def make(unit: UnitOfWork) -> BatchRecord:
        with named_by_body("model"):
            model = find_model(unit, body.model)
        with named_by_body("dataset_id"):
            dataset = unit.datasets.get(body.dataset_id)
        options = body.model_copy(update={"class_priors": body.class_priors or priors_of(unit, body.model)})
        if model.profile is not None:  # else the worker checks, once the model has been inspected
            DecisionPolicy.of(ServingProfile.of(model.profile), options)
        row = tables.Batch(
            id=new_id("bat"),
            status="queued",
            created_at=now(),
            model_id=model.id,
            dataset_id=body.dataset_id,
            options=options.model_dump(include={*AnswerOptions.model_fields, "errors"}),
            progress={},
        )
        unit.batches.add(row)
        return batch_record(unit, row, unit.work.open(row.id, blocked="inspecting" in (model.status, dataset.status)))

    answer = await create_once(services, Key.of("batches", key), [body.model_dump_json()], make)
    return created(answer, "/v1/batches", 202)


ROUTES = RecordRoutes(
    *(router, "batch", "batches", "bat", BatchRecord),
    rows=lambda unit: unit.batches,
    show=lambda unit, row: batch_record(unit, row, unit.work.of(row.id)),
)
ROUTES.add_list("The name of its model, or one that its model is published as.")
ROUTES.add_get("has ended")
ROUTES.add_delete(
    lambda unit, record_id: unit.batches.delete(record_id), "Delete a batch with its results; 409 before it has ended."
)

RowCursor = Annotated[int | None, Query(ge=-1, description="The row after which the page begins; -1 is the first.")]
PartNumber = Annotated[int, PathParameter(ge=0, le=1_000_000, description="The number of the part in the manifest.")]


@router.get(
    "/{batch_id}/results",
    name="get_batch_results",
    response_model=PredictionList,
    openapi_extra=operation(
        "unknown_prediction",
        "no_results",
        *STORED,
        tagged=True,
        ranges=PARQUET,
        content={name: {"schema": BINARY} for name in _MEDIA_TYPES.values()},
    ),
)
def get_results(
    request: Request,
    services: ServicesDep,
    batch_id: str,
    limit: Limit = 100,
    after: RowCursor = None,
    format: Annotated[Format | None, Query(description="All rows as a file; over `Accept`.")] = None,
) -> Response:
    """Return predictions of a batch, a page in the dataset's order; 409 before it has ended.

    With `format`, or its media type in `Accept`, all of them, whatever `limit` and `after` say. A Parquet file has the
    same columns, those alone that were asked for. Results of many rows are stored in parts, which `/results/manifest`
    lists: ranges work on a part, and on the whole where it is the only one.
    """
    results = BatchResults.of(services.registry, batch_id)
    accepted = request.headers.get("accept", "")
    format = format or next((name for name, media_type in _MEDIA_TYPES.items() if media_type in accepted), None)
    if format is not None:
        answer = _whole(request, services, results, format)
        answer.headers["Vary"] = "Accept"
        return answer
    return json_page(results.rows(0 if after is None else after + 1, limit + 1), limit, headers={"Vary": "Accept"})


@router.get(
    "/{batch_id}/results/manifest",
    name="get_batch_manifest",
    response_model=BatchManifest,
    openapi_extra=operation("unknown_prediction", "no_results", *STORED, tagged=True),
)
def get_manifest(request: Request, services: ServicesDep, batch_id: str) -> Response:
    """List the files of a batch's results, to read them in parallel; 409 before the batch has ended."""
    return tagged(request, BatchResults.of(services.registry, batch_id).manifest)


@router.get(
    "/{batch_id}/results/parts/{number}",
    name="download_batch_part",
    response_class=Response,
    openapi_extra=downloading("unknown_prediction", "no_results", "unknown_results_part"),
)
def get_part(request: Request, services: ServicesDep, batch_id: str, number: PartNumber) -> Response:
    """Download a part of a batch's results, a Parquet file; its `ETag` is its digest in the manifest, and ranges work.

    The media type is the general one, which generated clients read as a file.
    """
    part = BatchResults.of(services.registry, batch_id).part(number)
    return stored_file(request, services, part.sha256, f"{batch_id}-{number:05}.parquet")


def _whole(request: Request, services: Services, results: BatchResults, format: Format) -> Response:
    """All rows as a file; every part is looked at before the first byte."""
    name, media_type = f"{results.manifest.batch_id}.{format}", _MEDIA_TYPES[format]
    if format == "parquet" and len(results.manifest.parts) == 1:
        return stored_file(request, services, results.part(0).sha256, name, media_type=media_type)
    etag = f'"{results.digest}-{format}"'
    if etag_matches(request, etag):
        return Response(status_code=304, headers={"ETag": etag})
    headers = {"ETag": etag, "Content-Disposition": f'attachment; filename="{name}"'}
    results.check()
    return StreamingResponse(_WRITERS[format](results.files()), media_type=media_type, headers=headers)
