"""`/v1/keys`: keys with scopes, issued and revoked by administrators."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from fastapi import APIRouter, Response

from fedlas.contract.base import Page
from fedlas.contract.keys import IssuedKey, KeyRecord, KeyRequest, new_key
from service.api.plumbing.declarations import operation
from service.api.plumbing.responses import After, Limit, page_of
from service.api.plumbing.routing import Route
from service.api.plumbing.services import ServicesDep
from service.registry import tables
from service.registry.errors import Conflict, InvalidRequest, Unavailable
from service.registry.presenters import key_record
from service.registry.registry import UnitOfWork
from service.registry.tables import new_id, now

router = APIRouter(route_class=Route, prefix="/v1/keys", tags=["keys"])


# Without an Idempotency-Key: its answer is kept for a day, and a key may be kept nowhere.
@router.post("", status_code=201, openapi_extra=operation("no_administrator", "storage_unavailable"))
async def create_key(services: ServicesDep, body: KeyRequest) -> IssuedKey:
    """Issue a key with scopes; it is shown this once, and counts at once."""
    if not services.keys.needed:
        message = "this service needs no key yet; set FEDLAS_API_KEYS, and issue keys with one of those"
        raise Conflict("no_administrator", message)
    if body.expires_at is not None and body.expires_at <= datetime.now(UTC):
        raise InvalidRequest("invalid_request", f"{body.expires_at} is over", field="expires_at")
    key = new_key()

    def issue(unit: UnitOfWork) -> KeyRecord:
        row = tables.ApiKey(
            id=new_id("key"),
            name=body.name,
            scopes=sorted(set(body.scopes)),
            models=body.models,
            sha256=hashlib.sha256(key.encode()).hexdigest(),
            created_at=now(),
            expires_at=body.expires_at,
        )
        return key_record(unit.api_keys.add(row))

    record = await services.write(issue)
    try:
        await services.write_keys()
    except Unavailable:
        await services.write(lambda unit: unit.api_keys.revoke(record.id))
        raise
    return IssuedKey(**dict(record), key=key)


@router.get("", response_model=Page[KeyRecord])
async def list_keys(services: ServicesDep, limit: Limit = 20, after: After = None) -> Response:
    """List the keys that were issued and not revoked: what each may do, not the keys themselves."""

    def page(unit: UnitOfWork) -> Response:
        rows = unit.api_keys.newest(limit=limit + 1, after=after)
        return page_of(map(key_record, rows), limit, lambda record: record.id)

    return await services.read(page)


@router.delete(
    "/{key_id}", status_code=204, response_class=Response, openapi_extra=operation("unknown_key", "storage_unavailable")
)
async def revoke_key(services: ServicesDep, key_id: str) -> None:
    """Revoke a key: no process admits it five seconds later, and its open streams end."""
    await services.write(lambda unit: unit.api_keys.revoke(key_id))
    await services.write_keys()
