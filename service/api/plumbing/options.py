"""Options of a file, as the contract has them: read from the texts of a query and of a form's parts.

A text is JSON where its field holds more than one value; lists of names may also stand between commas.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from fedlas.contract.base import Document, JsonObject, objection, objection_within
from fedlas.contract.error_codes import ERROR_CODES
from fedlas.preprocessing import Preprocessing
from service.api.plumbing.declarations import json_text
from service.api.plumbing.request_bodies import check_json, parse_json
from service.registry.errors import InvalidRequest

Options = TypeVar("Options", bound=Document)

#: Fields that are lists of names, and how many they need.
_MIN_NAMES = {"class_names": 2, "columns": 1}
#: Fields that are JSON in a text, and what belongs into them: the error of a part says too little.
_NEEDED = {
    "roles": "an object of role and column name",
    "split_shares": "shares of train, calibration, guarantee and test, which sum to 1",
    "padding": "an object of input and finite number",
    "preprocessing": "an object of steps",
    "class_priors": "an object of class name and share",
    "promise": 'an object such as {"max_error": 0.05, "confidence": 0.95}',
}
_SHOWN = 200
_MAX_MESSAGE = 1000


def read_options(kind: type[Options], given: Mapping[str, JsonValue]) -> Options:
    """The options that are given as texts or, in a JSON part, as values; raises InvalidRequest, ValidationError."""
    values = {name: _value(kind, name, value) for name, value in given.items()}
    if reason := objection_within(values):
        raise InvalidRequest("invalid_request", f"a text among the options {reason}")
    return kind.model_validate(values)


def stored_options(options: Document) -> JsonObject:
    """The options as they are kept with the record."""
    return options.model_dump(mode="json", exclude={"name", "upload_id", "wait"})


@cache
def query_parameters(kind: type[Document]) -> list[JsonObject]:
    """The fields as parameters of a query, for the OpenAPI document."""
    properties = kind.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
    return [_parameter(name, schema, kind.__name__) for name, schema in properties.items()]


def _parameter(name: str, schema: dict[str, Any], owner: str) -> JsonObject:
    (plain, *_) = schema.pop("anyOf", [{}])
    value_schema = {**plain, **{key: value for key, value in schema.items() if key not in ("description", "title")}}
    if value_schema.get("default") is None:
        value_schema.pop("default", None)
    described = schema["description"]
    if name in _NEEDED:
        value_schema = json_text(owner, name)
    if name in _MIN_NAMES:
        value_schema = {"type": "string"}
        described += " A JSON list, or names between commas, in quotes where they hold one."
    return {"name": name, "in": "query", "required": False, "description": described, "schema": value_schema}


@cache
def _strict(kind: type[Document], name: str) -> TypeAdapter[Any]:
    field = kind.model_fields[name]
    annotation: Any = field.annotation
    finite = ConfigDict(allow_inf_nan=False)
    return TypeAdapter(Annotated[annotation, *field.metadata] if field.metadata else annotation, config=finite)


def _value(kind: type[Document], name: str, value: JsonValue) -> JsonValue:
    if name in _MIN_NAMES and value is not None:
        return list(parse_names(value if isinstance(value, str) else json.dumps(value), name))
    if name not in _NEEDED or name not in kind.model_fields or value is None:
        return value
    if isinstance(value, str):
        check_json(value.encode(), field=name)
        value = parse_json(value, name) if value else None
    if name == "preprocessing":
        return None if value is None else _preprocessing(value)
    try:
        _strict(kind, name).validate_json(to_json(value, inf_nan_mode="constants"), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join([name, *map(str, first["loc"])])[:_SHOWN]
        said = first["msg"].removeprefix("Value error, ")
        code = f"invalid_{name}" if f"invalid_{name}" in ERROR_CODES else "invalid_request"
        raise InvalidRequest(code, f"{place}: {said}; expected {_NEEDED[name]}", field=name) from error
    return value


def _preprocessing(value: JsonValue) -> JsonObject:
    """The steps, each in its full form: `224` is a square, one mean holds for all channels."""
    if not isinstance(value, dict):
        raise InvalidRequest("invalid_preprocessing", "preprocessing must be a JSON object", field="preprocessing")
    try:
        return dict(Preprocessing.parse(value).as_dict())
    except ValueError as error:
        message = f"preprocessing: {error}"[:_MAX_MESSAGE]
        raise InvalidRequest("invalid_preprocessing", message, field="preprocessing") from error


def parse_names(text: str, field: str) -> list[str]:
    """The names without spaces around them, enough for the field, none empty and none twice; raises InvalidRequest.

    >>> parse_names('cat, dog', "class_names"), parse_names('"a, b",c', "class_names")
    (['cat', 'dog'], ['a, b', 'c'])
    >>> parse_names('["a, b", "c"]', "class_names")
    ['a, b', 'c']
    """
    least, names = _MIN_NAMES[field], _listed(text, field)
    if len(names) < least or not all(names) or len(set(names)) != len(names):
        wanted = "at least two different, non-empty names" if least == 2 else "different, non-empty names"
        raise _refused(field, f"must be {wanted}; found {str(names[:10])[:_SHOWN]}")
    return names


def _listed(text: str, field: str) -> list[str]:
    if text.lstrip().startswith("["):
        try:
            return [_name(item, field) for item in from_json(text)]
        except ValueError as error:
            if text.lstrip()[1:].lstrip().startswith('"'):  # else it may be names in brackets: "[a],b"
                raise _refused(field, f"looks like a JSON list and is none: {str(error)[:_SHOWN]}") from error
    rows = csv.reader(io.StringIO(text.strip(), newline=""), skipinitialspace=True, strict=True)
    try:
        names, *more = list(rows) or [[]]
    except csv.Error:  # no quoting, but names that begin with a quote
        names, more = text.split(","), []
    if more:
        raise _refused(field, f"must stand on one line; found a second one, {str(more[0][:5])[:_SHOWN]}")
    return [name.strip() for name in names]


def _name(item: JsonValue, field: str) -> str:
    """The name; whole numbers may stand for themselves."""
    if isinstance(item, bool) or not isinstance(item, str | int):
        raise _refused(field, f"must be names; found {str(item)[:_SHOWN]!r} in the list")
    if reason := objection(str(item)):
        raise _refused(field, f"must be names that can be kept; one {reason}")
    return str(item).strip()


def _refused(field: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"invalid_{field}", f"{field} {what}", field=field)
