"""`/v1/models`: classifiers; a worker opens them in its sandbox. Clients name one by its id, or by a published name."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from fedlas.contract.base import JsonObject
from fedlas.contract.options import ModelPart
from fedlas.contract.records import ModelRecord
from service.api.plumbing.idempotency import IdempotencyKey, Key
from service.api.plumbing.options import stored_options
from service.api.plumbing.receiving import MODEL_PARTS, ReceivedFile
from service.api.plumbing.records import MODEL_FORM, RecordRoutes, create_from_file, uploading
from service.api.plumbing.responses import PriorsOption, created, downloading, stored_graph
from service.api.plumbing.routing import Route
from service.api.plumbing.services import Services, ServicesDep
from service.registry import tables
from service.registry.errors import InvalidRequest, NotFound
from service.registry.presenters import model_record
from service.registry.registry import UnitOfWork, find_model
from service.registry.tables import new_id

router = APIRouter(route_class=Route, prefix="/v1/models", tags=["models"])

_SHOWN = 200


def stored_model_options(options: ModelPart) -> JsonObject:
    """The options as they are kept with the record; raises InvalidRequest."""
    names = options.class_names
    if options.positive_class is not None and (names is None or options.positive_class not in names):
        shown = "none were given" if names is None else ", ".join(names)[:_SHOWN]
        message = f"positive_class {options.positive_class[:_SHOWN]!r} is none of class_names ({shown})"
        raise InvalidRequest("invalid_positive_class", message, field="positive_class")
    return stored_options(options)


def add_model(unit: UnitOfWork, file: ReceivedFile, options: ModelPart, stored: JsonObject) -> tables.Model:
    """Keep the file and insert the record; inspection is open work."""
    columns = file.columns(unit, options.name, "model")
    row = tables.Model(id=new_id("mdl"), status="inspecting", origin="uploaded", options=stored, **columns)
    unit.models.add(row)
    unit.work.open(row.id)
    return row


@router.post(
    "",
    status_code=201,
    response_model=ModelRecord,
    openapi_extra=uploading(
        ModelPart,
        *("invalid_class_names", "invalid_positive_class", "invalid_columns", "invalid_padding"),
        "invalid_preprocessing",
        at={422: ["unknown_upload"]},
        form=MODEL_FORM,
    ),
)
async def create_model(request: Request, services: ServicesDep, key: IdempotencyKey = None) -> Response:
    """Upload a model; it is inspected in the background and becomes `ready` or `rejected`."""
    scoped = Key.of("models", key)
    answer, _ = await create_from_file(
        request, services, scoped, ModelPart, add_model, model_record, MODEL_PARTS, stored=stored_model_options
    )
    return created(answer, "/v1/models")


async def _follow(services: Services, given: str, row: tables.Model) -> None:
    """A client that has seen which model a name means, or that it is ready, is answered by it."""
    await services.follow_served()


def _delete(unit: UnitOfWork, given: str) -> list[str]:
    """By its id alone: a name means another model tomorrow."""
    if unit.models.find(given) is None and unit.names.exists(given):
        message = f"{given!r} is a published name and no model's id; DELETE /v1/names/{given} deletes the name"
        raise NotFound("unknown_model", message)
    return unit.models.delete(given)


ROUTES = RecordRoutes(
    *(router, "model", "models", "mdl", ModelRecord), rows=lambda unit: unit.models, show=model_record, find=find_model
)
ROUTES.add_list("Only records of this name, as a whole.")
ROUTES.add_get("is ready or rejected", _follow)
ROUTES.add_delete(
    _delete,
    "Delete a model and its files; 409 while it is published or an open job or batch needs it.",
    refused="in_use",
)


@router.get(
    "/{model_id}/onnx", response_class=FileResponse, openapi_extra=downloading("unknown_model", "no_class_shares")
)
def download_model(
    request: Request, services: ServicesDep, model_id: str, class_priors: PriorsOption = None
) -> Response:
    """Download a model as ONNX: an upload's bytes as sent, a calibrated one with its standard outputs. Ranges work.

    Of a model that came with the file of its weights: a zip of the two.
    """
    with services.registry.read() as unit:
        row = find_model(unit, model_id)
    if class_priors is not None and not (row.profile or {}).get("class_priors"):
        raise InvalidRequest(
            "no_class_shares",
            f"{row.id} ({row.origin}) knows no class shares; expected a model that a job has calibrated",
            field="class_priors",
        )
    return stored_graph(request, services, row, row.sha256, class_priors)
