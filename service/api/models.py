"""`/v1/models`: classifiers; a worker opens them in its sandbox."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import ConfigDict, Field

from fedlas.preprocessing import Preprocessing
from service.api.creation import add_model
from service.api.datasets import UPLOAD_BODY
from service.api.dependencies import (
    ServicesDep,
    UploadId,
    Wait,
    created,
    long_poll,
    still_open,
    stored_file,
    tagged,
)
from service.api.idempotency import IdempotencyKey, Key, create_once, reserved
from service.api.json_values import parse_json
from service.api.pages import After, Limit, cursor, page_of
from service.api.receiving import receive_file
from service.api.routing import Route
from service.registry.contract import ModelRecord, Page, Strict
from service.registry.documents import JsonObject, Task
from service.registry.errors import InvalidRequest
from service.registry.presenters import model_record
from service.registry.unit_of_work import UnitOfWork

router = APIRouter(route_class=Route, prefix="/v1/models", tags=["models"])

_SHOWN = 200
_LONGEST_MESSAGE = 1000


class ModelOptions(Strict):
    """How to understand the file; everything has a default."""

    model_config = ConfigDict(strict=False)  # a query parameter is always text

    name: str | None = Field(None, max_length=200)
    class_names: str | None = Field(None, max_length=1_000_000, description="Comma-separated, in the output's order.")
    task: Task | None = None
    positive_class: str | None = Field(None, max_length=1000)
    output: str | None = Field(
        None, max_length=1000, description="The output that classifies, where there are several."
    )
    features: str | None = Field(None, max_length=1000, description="The tensor to tap as penultimate features.")
    preprocessing: str | None = Field(
        None,
        max_length=1_000_000,
        description="JSON: how image files become the model's input, in training and serving.",
    )
    architecture: str | None = Field(
        None, max_length=200, description="Of a safetensors file, for example `torchvision/resnet18`."
    )
    num_classes: int | None = Field(None, ge=1, le=1_000_000, description="Of the architecture's last layer.")
    upload_id: UploadId = None

    def stored(self) -> JsonObject:
        """The options as they are kept with the record; raises InvalidRequest."""
        if self.num_classes is not None and self.architecture is None:
            message = "num_classes belongs to an architecture; an ONNX file says itself how many classes it has"
            raise InvalidRequest("num_classes_without_architecture", message, field="num_classes")
        names = parse_class_names(self.class_names) if self.class_names is not None else None
        if self.positive_class is not None and (names is None or self.positive_class not in names):
            shown = "none were given" if names is None else ", ".join(names)[:_SHOWN]
            raise InvalidRequest(
                "invalid_positive_class",
                f"positive_class {self.positive_class[:_SHOWN]!r} is none of class_names ({shown})",
                field="positive_class",
            )
        kept = self.model_dump(include={"task", "positive_class", "output", "features", "architecture", "num_classes"})
        preprocessing = parse_preprocessing(self.preprocessing) if self.preprocessing else None
        return {**kept, "class_names": names, "preprocessing": preprocessing}


def parse_class_names(text: str) -> list[str]:
    """Split and check; raises InvalidRequest."""
    names = [name.strip() for name in text.split(",")]
    if len(names) < 2 or not all(names) or len(set(names)) != len(names):
        raise InvalidRequest(
            "invalid_class_names",
            f"class_names must be at least two different, non-empty names; found {str(names[:10])[:_SHOWN]}",
            field="class_names",
        )
    return names


def parse_preprocessing(text: str) -> JsonObject:
    """Parse, check and complete; raises InvalidRequest."""
    given = parse_json(text, "preprocessing")
    if not isinstance(given, dict):
        raise InvalidRequest("invalid_preprocessing", "preprocessing must be a JSON object", field="preprocessing")
    try:
        return dict(Preprocessing.parse(given).as_dict())
    except ValueError as error:
        message = f"preprocessing: {error}"[:_LONGEST_MESSAGE]
        raise InvalidRequest("invalid_preprocessing", message, field="preprocessing") from error


@router.post("", status_code=201, response_model=ModelRecord, openapi_extra=UPLOAD_BODY)
async def create_model(
    request: Request,
    services: ServicesDep,
    options: Annotated[ModelOptions, Query()],
    key: IdempotencyKey = None,
) -> Response:
    """Store a classifier; it is inspected in the background and becomes `ready` or `rejected`."""
    async with reserved(services, Key.of("models", key)) as held:
        with ExitStack() as stack:
            file, texts, filename = await receive_file(request, services, stack, upload_id=options.upload_id)
            merged = ModelOptions.model_validate({**options.model_dump(exclude_unset=True), **texts})
            stored = merged.stored()

            def make(unit: UnitOfWork) -> ModelRecord:
                return model_record(add_model(unit, file, merged.name or filename, stored))

            content = [file.fingerprint, merged.model_dump_json()]
            answer = await services.write_in_thread(create_once, services, held, content, make)
    return created(answer, "/v1/models")


@router.get("", response_model=Page[ModelRecord])
def list_models(services: ServicesDep, limit: Limit = 20, after: After = None) -> Response:
    """List models, newest first."""
    after = cursor(after, "mdl")
    with services.registry.read() as unit:
        return page_of(map(model_record, unit.models.newest(limit=limit + 1, after=after)), limit)


@router.get("/{model_id}", response_model=ModelRecord)
async def get_model(request: Request, services: ServicesDep, model_id: str, wait: Wait = None) -> Response:
    """Return one model; `wait` returns as soon as it is ready or rejected."""

    def read() -> ModelRecord:
        with services.registry.read() as unit:
            return model_record(unit.models.get(model_id))

    record = await long_poll(services, read, wait)
    return tagged(request, record, headers=still_open(record))


@router.get("/{model_id}/onnx", response_class=FileResponse)
def download_model(request: Request, services: ServicesDep, model_id: str) -> Response:
    """The file: an uploaded model's bytes as sent, a calibrated model with its standard outputs. Ranges work."""
    with services.registry.read() as unit:
        row = unit.models.get(model_id)
    return stored_file(request, services, row.sha256, f"{Path(row.name).stem}-{row.id}.onnx")


@router.delete("/{model_id}", status_code=204)
def delete_model(services: ServicesDep, model_id: str) -> None:
    """Delete a model and its files; 409 while it is published or an open job or batch needs it."""
    with services.registry.write() as unit:
        unnamed = unit.models.delete(model_id)
    services.model_repository.forget()
    services.registry.discard(unnamed)
