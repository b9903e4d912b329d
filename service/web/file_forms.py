"""File forms: a model and a dataset as a page's form sends them, whole or as finished uploads, as records.

The options of each, its checks and its record are those of the API. Each of the two is made by itself: where one is
refused, the other is there, and the form comes back with what was entered. A form that is sent twice makes them once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json

from service.api.datasets import DatasetOptions, add_dataset
from service.api.forms import Form
from service.api.idempotency import Key, create_once
from service.api.models import ModelOptions, add_model
from service.api.receiving import ReceivedFile, join_weights, receive_parts, take_part
from service.api.records import FileOptions, Row
from service.api.services import Services
from service.registry.contract import DatasetRecord, ModelRecord
from service.registry.documents import JsonObject
from service.registry.errors import InvalidRequest, RegistryError
from service.registry.presenters import dataset_record, model_record
from service.registry.unit_of_work import UnitOfWork
from service.web.form_fields import FormState, nested, refused
from service.web.form_keys import FIELD, idempotency_key

_MODEL, _WEIGHTS, _DATASET = "model", "data", "dataset"
_SHARES = frozenset(f"split_shares.{split}" for split in ("train", "calibration", "guarantee", "test"))

Options = TypeVar("Options", bound=FileOptions)


@dataclass(frozen=True)
class Sent:
    """What came of one of the two: its record, or the form to show once more, or nothing where nothing was chosen."""

    form: FormState
    record_id: str | None = None

    @classmethod
    def nothing(cls) -> dict[str, Sent]:
        """Before anything was sent."""
        return {name: cls(FormState(prefix=name)) for name in (_MODEL, _DATASET)}


async def receive_files(request: Request, services: Services) -> dict[str, Sent]:
    """Take what a form sends, and make its records."""
    with ExitStack() as stack:
        form = await receive_parts(request, services, stack, files=(_MODEL, _WEIGHTS, _DATASET))
        _drop_unchosen(form)
        texts = form.texts()
        once = partial(_make, services, form, stack, texts.get(FIELD, ""))
        sent = {
            _MODEL: await once(_fields(_MODEL, texts), model_options, add_model, model_record),
            _DATASET: await once(_fields(_DATASET, texts), dataset_options, add_dataset, dataset_record),
        }
        return _told_if_empty(sent)


def model_options(fields: Mapping[str, str]) -> ModelOptions:
    """The options of a model, as the API checks them."""
    return ModelOptions.model_validate(nested(fields))


def dataset_options(fields: Mapping[str, str]) -> DatasetOptions:
    """The options of a dataset; columns of roles and shares of splits have fields of their own.

    Rows that are sent here are to be calibrated on, so that a missing label is told at once.

    >>> given = dataset_options({"roles.label": "kind", "roles.slices": "age, site", "split_shares.test": "0.5"})
    >>> given.roles, given.split_shares, given.purpose
    ('{"label": "kind", "slices": ["age", "site"]}', '{"test": 0.5}', 'fit')
    """
    options = nested(fields, numbers=_SHARES)
    roles = options.get("roles")
    if isinstance(roles, dict) and "slices" in roles:
        roles["slices"] = [name.strip() for name in fields["roles.slices"].split(",") if name.strip()]
    flat = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in options.items()}
    return DatasetOptions.model_validate({"purpose": "fit", **flat})


async def _make(
    services: Services,
    form: Form,
    stack: ExitStack,
    form_key: str,
    state: FormState,
    read: Callable[[Mapping[str, str]], Options],
    add: Callable[[UnitOfWork, ReceivedFile, Options, JsonObject], Row],
    show: Callable[[UnitOfWork, Row], DatasetRecord | ModelRecord],
) -> Sent:
    """One of the two; a file that was chosen counts before an upload, and both before a record that is there."""
    name, upload_id = state.prefix, state.value("upload_id") or None
    is_stored = name not in form.files and upload_id is None
    if is_stored and not (state.value("id") and state.value("seen_by_model")):
        return Sent(state, state.value("id") or None)
    try:
        if is_stored:
            return Sent(state, await services.write(partial(_dataset_again, state=state)))
        options = read({name: text for name, text in state.entered.items() if name not in ("id", "upload_id")})
        stored = options.stored()
        if name == _MODEL:
            await join_weights(form, name, services, stack)
        file = await take_part(form, name, services, stack, upload_id=None if name in form.files else upload_id)
        content = [name, file.fingerprint, options.model_dump_json(exclude={"upload_id"})]
        key = Key.of("forms", idempotency_key(form_key, list(content)))
        answer = await create_once(services, key, content, lambda unit: show(unit, add(unit, file, options, stored)))
        return Sent(state, from_json(answer)["id"])
    except (RegistryError, ValidationError) as error:
        return Sent(FormState(state.entered, refused("/new", error), name))


def _dataset_again(unit: UnitOfWork, state: FormState) -> str:
    """The id of another record of rows that are here, with what is said now of what the model has seen of them."""
    said = DatasetOptions.model_validate({"seen_by_model": state.value("seen_by_model")})
    row = unit.datasets.get(state.value("id"))
    file = ReceivedFile(row.bytes, row.sha256, lambda _: row.sha256, row.name)
    return add_dataset(unit, file, said, {**row.options, "seen_by_model": said.seen_by_model}).id


def _told_if_empty(sent: dict[str, Sent]) -> dict[str, Sent]:
    """The same; where nothing at all was chosen, with that as the reason. A form may be of one of the two alone."""
    asked = [name for name, one in sent.items() if "upload_id" in one.form.entered]
    if any(sent[name].record_id or sent[name].form.problem for name in asked):
        return sent
    nothing = refused("/new", InvalidRequest("missing_part", "choose a file, or one that is here"))
    return {**sent, **{name: Sent(replace(sent[name].form, problem=nothing)) for name in asked}}


def _drop_unchosen(form: Form) -> None:
    """Browsers send a part for a file that was not chosen: no bytes, and an empty name or none."""
    for name in (_MODEL, _WEIGHTS, _DATASET):
        file, filename = form.files.get(name, (None, ""))
        if not filename and (file is None or not file.size):
            form.files.pop(name, None)
            form.contents.pop(name, None)


def _fields(name: str, texts: Mapping[str, str]) -> FormState:
    """The fields of one of the two, without its prefix."""
    own = {field.removeprefix(f"{name}."): text for field, text in texts.items() if field.startswith(f"{name}.")}
    return FormState(own, prefix=name)
