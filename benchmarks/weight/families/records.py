"""What stays: records that are made large or many, and then listed; keys; unknown names."""

from __future__ import annotations

import json

from benchmarks.weight.content import Content, listed, repeated, text
from benchmarks.weight.families.family import family
from benchmarks.weight.requests import MOST_BODY, MOST_WIRE, Attack, Shot, TooBig, request
from benchmarks.weight.space import Size, choice
from benchmarks.weight.world import World

_MANY = Size(1, 256)


@family(
    "lists",
    "records with as much as they may carry, and then a page of them",
    length=Size(1, MOST_BODY),
    records=_MANY,
    entries=Size(1, 64),
    field=choice("metadata", "class_names", "name", "roles", "dataset_name", "max_error"),
)
def _lists(world: World, *, records: int, entries: int, length: int, field: str) -> Attack:
    size = entries * length
    if size > MOST_BODY or records * size > 2 * MOST_BODY:
        raise TooBig("larger than a body, or than the attacker's patience")
    wire, page = _record(world, field, entries, length)
    shots = [Shot(wire)] * records
    return Attack([*shots, Shot(request("GET", f"{page}?limit=100", key=world.key))])


def _record(world: World, field: str, entries: int, length: int) -> tuple[Content, str]:
    """A request that makes one record, and the list that shows it."""
    job = {"model_id": world.models["small"], "dataset_id": world.dataset, "dry_run": True}
    letters = repeated(b"a", length)
    if field == "metadata":
        entry = repeated(b'"%08x":"' + b"a" * min(length, 1 << 22) + b'",', entries - 1)
        begin = json.dumps(job)[:-1].encode() + b',"metadata":{'
        return request("POST", "/v1/jobs", begin + entry + b'"k":"' + letters + b'"}}', key=world.key), "/v1/jobs"
    if field == "max_error":
        begin = json.dumps({"model": world.models["small"], "dataset_id": world.dataset})[:-1].encode()
        body = begin + b',"max_error":{' + listed(b'"%08x' + b"a" * min(length, 1 << 22) + b'":0.5', entries) + b"}}"
        return request("POST", "/v1/predictions", body, key=world.key), "/v1/predictions"
    route, option = (
        ("datasets", field.removeprefix("dataset_")) if field in ("roles", "dataset_name") else ("models", field)
    )
    value: Content = letters
    if field == "class_names":
        value = repeated(b"%08x" + b"a" * min(length, 1 << 20) + b",", entries) + b"last"
    elif field == "roles":
        value = b'{"label":"' + letters + b'"}'
    body = text(b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n' % option.encode()) + value
    body = body + b'\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\na\r\n--b--\r\n'
    kind = "multipart/form-data; boundary=b"
    return request("POST", f"/v1/{route}", body, kind=kind, key=world.key), f"/v1/{route}"


@family(
    "idempotency",
    "keys of requests: how long, how many",
    length=Size(1, 1 << 26),
    requests=Size(1, 1024),
    route=choice("jobs", "uploads", "predictions"),
)
def _idempotency(world: World, *, length: int, requests: int, route: str) -> Attack:
    bodies: dict[str, object] = {
        "jobs": {"model_id": world.models["small"], "dataset_id": world.dataset, "dry_run": True},
        "uploads": {"bytes": 1},
        "predictions": {"model": world.models["small"], "dataset_id": world.dataset},
    }
    if requests * length > MOST_WIRE:
        raise TooBig("more than the attacker's patience")
    header = b"Idempotency-Key: %08x" + b"a" * length + b"\r\n"
    body = text(json.dumps(bodies[route]))
    shots = []
    for number in range(requests):
        line = text(header.replace(b"%08x", b"%08x" % number))
        shots.append(Shot(request("POST", f"/v1/{route}", body, key=world.key, headers=line)))
    return Attack(shots)


@family(
    "strangers",
    "unknown models, each under a name of its own, and then what is counted of them",
    copies=Size(1, 1 << 16),
    length=Size(1, 1 << 14),
    route=choice("/v1/models/{}/predict", "/v2/models/{}/infer", "/v2/models/{}/versions/1/infer"),
    page=choice("/metrics", "/v2/models/stats", "/v1/names"),
)
def _strangers(world: World, *, copies: int, length: int, route: str, page: str) -> Attack:
    target = text(route.replace("{}", "%08x" + "a" * length))
    unit = b"".join(request("POST", target, text(b"{}"), key=world.key, close=False).chunks()).replace(
        b"00000000", b"%08x"
    )
    if copies * len(unit) > MOST_BODY:
        raise TooBig("more than the attacker's patience")
    last = request("GET", page, key=world.key)
    return Attack([Shot(repeated(unit, copies) + last)])
