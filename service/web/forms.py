"""Forms: their fields as the API's objects, and a model and a dataset that they send as records.

A dotted name is a nested field of the API, and what was left empty is not sent. The options of each file, its checks
and its record are those of the API. Each of the two is made by itself: where one is refused, the other is there, and
the form comes back with what was entered. A form that is sent twice, by a double click or from the page before, has
done its work once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite

from fastapi import Request
from pydantic import JsonValue, ValidationError
from pydantic_core import from_json

from fedlas.contract.base import JsonObject
from fedlas.contract.options import DatasetPart, ModelPart
from fedlas.contract.problems import Problem
from fedlas.contract.records import DatasetRecord, JobRecord, ModelRecord
from service.api.plumbing.idempotency import Key, create_once
from service.api.plumbing.options import Options, read_options, stored_options
from service.api.plumbing.receiving import Form, ReceivedFile, join_weights, receive_parts, take_part
from service.api.plumbing.records import Row
from service.api.plumbing.services import Services
from service.api.resources.datasets import add_dataset
from service.api.resources.models import add_model, stored_model_options
from service.http.problems import invalid, problem_of
from service.registry.errors import InvalidRequest, RegistryError
from service.registry.presenters import dataset_record, model_record
from service.registry.registry import UnitOfWork

#: The hidden field that holds a form's key.
FIELD = "form_key"
#: Fields of a form that stand for a number of the API.
_NUMBERS = frozenset(
    {
        *("budget.minutes", "budget.candidates", "seed", "expected_accuracy", "max_cost_factor"),
        *("gate.confidence_level", "gate.max_accuracy_drop", "gate.max_recall_drop"),
        *("hyperparameters.epochs", "hyperparameters.learning_rate", "hyperparameters.batch_size"),
        *("hyperparameters.alpha", "hyperparameters.beta", "hyperparameters.margin", "hyperparameters.momentum"),
    }
)
#: Fields of several lines `name = value`.
_LINES = ("class_priors", "metadata")
_ACCEPTED = "accept_warnings"
#: The form's own key, and the dry run that it shows, are no part of the request.
_NOT_SENT = frozenset({FIELD, "check", _ACCEPTED})
_MODEL = "model"
_WEIGHTS = "data"
_DATASET = "dataset"
_SHARES = frozenset(f"split_shares.{split}" for split in ("train", "calibration", "guarantee", "test"))
#: Characters of a name in an error message.
_SHOWN = 100


@dataclass(frozen=True)
class FormState:
    """A form as it is shown: what was entered, and what of it was refused.

    Attributes:
        prefix: of the fields' names on the page, where a page has more than one form's worth of them.
    """

    entered: Mapping[str, str] = field(default_factory=dict)
    problem: Problem | None = None
    prefix: str = ""

    def value(self, name: str, default: str = "") -> str:
        return self.entered.get(name, default)

    def error(self, name: str) -> str | None:
        refused = self.problem.errors if self.problem is not None else []
        return next((one.message for one in refused if self.place(one.field) == name), None)

    def place(self, name: str) -> str:
        """The field of the form that holds a field of the API: a line of `metadata` stands among its lines."""
        outer = name.partition(".")[0]
        return outer if outer in _LINES else name


def nested(fields: Mapping[str, str], *, numbers: Collection[str] = ()) -> JsonObject:
    """The fields as the API's object; what should be a number and is none is left to be refused there.

    Raises InvalidRequest for names that no form has: deeper ones, and a field that is an object, too.

    >>> nested({"budget.minutes": "5", "seed": "", "method": "auto"}, numbers={"budget.minutes", "seed"})
    {'budget': {'minutes': 5}, 'method': 'auto'}
    """
    made: JsonObject = {}
    for name, text in fields.items():
        if not text.strip():
            continue
        outer, _, inner = name.partition(".")
        value = number_or_text(text) if name in numbers else text.strip()
        place = made.setdefault(outer, {}) if inner else made
        if "." in inner or not isinstance(place, dict) or isinstance(made.get(name), dict):
            raise InvalidRequest("invalid_request", f"no form here has a field {name[:_SHOWN]!r}", field=name[:_SHOWN])
        place[inner or outer] = value
    return made


def number_or_text(text: str) -> JsonValue:
    """A number as one enters it.

    >>> number_or_text(" 12 "), number_or_text("0,5"), number_or_text("auto"), number_or_text("nan")
    (12, 0.5, 'auto', 'nan')
    """
    plain = text.strip()
    with suppress(ValueError):
        return int(plain)
    with suppress(ValueError):
        value = float(plain.replace(",", "."))
        return value if isfinite(value) else plain
    return plain


def problem_for(path: str, error: RegistryError | ValidationError) -> Problem:
    """The problem that the API answers to the same error."""
    answer = problem_of(path, error) if isinstance(error, RegistryError) else invalid(path, error)
    return Problem.model_validate_json(bytes(answer.body))


def idempotency_key(form_key: str, content: JsonValue) -> str | None:
    """The API's key of what a form asks for: who changes it and sends it again asks for something else.

    >>> idempotency_key("a", {"seed": 1}) == idempotency_key("a", {"seed": 2}), idempotency_key("", {})
    (False, None)
    """
    if not form_key:  # what has no key of its own is nobody's repetition
        return None
    return hashlib.sha256(json.dumps([form_key, content], sort_keys=True).encode()).hexdigest()


def request_of(fields: Sequence[tuple[str, str]]) -> JsonObject:
    """The request that a form's fields make, as the API takes it.

    >>> request_of([("model_id", "mdl_1"), ("seed", "3"), ("metadata", "team = x"), ("accept_warnings", "label_order")])
    {'model_id': 'mdl_1', 'seed': 3, 'metadata': {'team': 'x'}, 'accept_warnings': ['label_order']}
    """
    given = {name: text for name, text in fields if name not in _NOT_SENT}
    order = nested({name: text for name, text in given.items() if name not in _LINES}, numbers=_NUMBERS)
    # Names of classes may hold the sign between name and value; so may values of metadata.
    if priors := _lines(given.get("class_priors", ""), str.rpartition):
        order["class_priors"] = {name: number_or_text(share) for name, share in priors}
    if words := _lines(given.get("metadata", ""), str.partition):
        order["metadata"] = dict(words)
    if accepted := [text for name, text in fields if name == _ACCEPTED]:
        order[_ACCEPTED] = list(accepted)
    return order


def fields_of(job: JobRecord) -> dict[str, str]:
    """The fields that show a job's request; a webhook's secret is unknown by then, so its address is left out too."""
    order = job.model_dump(
        mode="json",
        include={
            *("method", "hyperparameters", "seed", "budget", "gate", "expected_accuracy", "max_cost_factor"),
            *("publish_as", "publish_when", "accelerator"),
        },
    )
    priors, metadata = job.class_priors or {}, job.metadata
    return {**dict(_flat(order)), "class_priors": _as_lines(priors), "metadata": _as_lines(metadata)}


def suggested_name(name: str) -> str:
    """A name to publish under, made of a file's name.

    >>> suggested_name("Digits v2 (final).onnx"), suggested_name("über.onnx"), suggested_name("…")
    ('Digits-v2-final', 'ber', '')
    """
    stem = name.rpartition(".")[0] or name
    plain = "".join(one if one.isascii() and (one.isalnum() or one in "._-") else " " for one in stem)
    return "-".join(plain.split()).strip("._-").removeprefix("mdl_")[:100]


def _lines(text: str, parted: Callable[[str, str], tuple[str, str, str]]) -> list[tuple[str, str]]:
    parts = [parted(line, "=") for line in text.splitlines() if line.strip()]
    return [(name.strip(), value.strip()) for name, _, value in parts]


def _as_lines(values: Mapping[str, object]) -> str:
    return "\n".join(f"{name} = {value}" for name, value in values.items())


def _flat(value: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, one in value.items():
        if isinstance(one, dict):
            yield from _flat(one, f"{prefix}{name}.")
        elif one is not None:
            yield f"{prefix}{name}", f"{one:g}" if isinstance(one, float) else str(one)


@dataclass(frozen=True)
class Sent:
    """Result of one of the two: its record, or the form to show once more, or nothing where nothing was chosen."""

    form: FormState
    record_id: str | None = None

    @classmethod
    def nothing(cls) -> dict[str, Sent]:
        return {name: cls(FormState(prefix=name)) for name in (_MODEL, _DATASET)}


async def receive_files(request: Request, services: Services) -> dict[str, Sent]:
    """Take what a form sends, and make its records; where nothing at all was chosen, that is the problem."""
    with ExitStack() as stack:
        form = await receive_parts(request, services, stack, files=(_MODEL, _WEIGHTS, _DATASET))
        for name in (_MODEL, _WEIGHTS, _DATASET):
            # Browsers send a part for a file that was not chosen: no bytes, and an empty name or none.
            file, filename = form.files.get(name, (None, ""))
            if not filename and (file is None or not file.size):
                form.files.pop(name, None)
                form.contents.pop(name, None)
        texts = form.texts()
        once = partial(_make, services, form, stack, texts.get(FIELD, ""))
        sent = {
            _MODEL: await once(_fields(_MODEL, texts), model_options, stored_model_options, add_model, model_record),
            _DATASET: await once(
                _fields(_DATASET, texts), dataset_options, stored_options, add_dataset, dataset_record
            ),
        }
    # A form may be of one of the two alone.
    asked = [name for name, one in sent.items() if "upload_id" in one.form.entered]
    if not any(sent[name].record_id or sent[name].form.problem for name in asked):
        nothing = problem_for("/new", InvalidRequest("missing_part", "choose a file, or one that is here"))
        sent |= {name: Sent(replace(sent[name].form, problem=nothing)) for name in asked}
    return sent


def model_options(fields: Mapping[str, str]) -> ModelPart:
    return read_options(ModelPart, nested(fields))


def dataset_options(fields: Mapping[str, str]) -> DatasetPart:
    """The options of a dataset; columns of roles and shares of splits have fields of their own.

    Rows that are sent here are to be calibrated on, so that a missing label is reported at once.

    >>> given = dataset_options({"roles.label": "kind", "roles.slices": "age, site"})
    >>> given.roles, given.purpose
    ({'label': 'kind', 'slices': ['age', 'site']}, 'fit')
    """
    options = nested(fields, numbers=_SHARES)
    roles = options.get("roles")
    if isinstance(roles, dict) and "slices" in roles:
        roles["slices"] = [name.strip() for name in fields["roles.slices"].split(",") if name.strip()]
    return read_options(DatasetPart, {"purpose": "fit", **options})


async def _make(
    services: Services,
    form: Form,
    stack: ExitStack,
    form_key: str,
    state: FormState,
    read: Callable[[Mapping[str, str]], Options],
    keep: Callable[[Options], JsonObject],
    add: Callable[[UnitOfWork, ReceivedFile, Options, JsonObject], Row],
    show: Callable[[UnitOfWork, Row], DatasetRecord | ModelRecord],
) -> Sent:
    name, upload_id = state.prefix, state.value("upload_id") or None
    is_stored = name not in form.files and upload_id is None
    if is_stored and not (state.value("id") and state.value("seen_by_model")):
        return Sent(state, state.value("id") or None)
    try:
        if is_stored:
            return Sent(state, await services.write(partial(_dataset_again, state=state)))
        options = read({name: text for name, text in state.entered.items() if name not in ("id", "upload_id")})
        stored = keep(options)
        if name == _MODEL:
            await join_weights(form, name, services, stack)
        file = await take_part(form, name, services, stack, upload_id=None if name in form.files else upload_id)
        content = [name, file.fingerprint, options.model_dump_json(exclude={"upload_id"})]
        key = Key.of("forms", idempotency_key(form_key, list(content)))
        answer = await create_once(services, key, content, lambda unit: show(unit, add(unit, file, options, stored)))
        return Sent(state, from_json(answer.record)["id"])
    except (RegistryError, ValidationError) as error:
        return Sent(FormState(state.entered, problem_for("/new", error), name))


def _dataset_again(unit: UnitOfWork, state: FormState) -> str:
    """The id of another record of rows that are here, with the present word on what the model has seen of them."""
    said = DatasetPart.model_validate({"seen_by_model": state.value("seen_by_model")})
    row = unit.datasets.get(state.value("id"))
    file = ReceivedFile(row.bytes, row.sha256, lambda _: row.sha256, row.name)
    return add_dataset(unit, file, said, {**row.options, "seen_by_model": said.seen_by_model}).id


def _fields(name: str, texts: Mapping[str, str]) -> FormState:
    own = {field.removeprefix(f"{name}."): text for field, text in texts.items() if field.startswith(f"{name}.")}
    return FormState(own, prefix=name)
