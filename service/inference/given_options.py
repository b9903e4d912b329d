"""Answer options in a query string or a form; whether their values are possible is checked later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, get_args, get_origin
from urllib.parse import parse_qsl

from pydantic_core import from_json

from fedlas.contract.options import AnswerOptions
from service.registry.errors import InvalidRequest

Options = dict[str, object]

_NUMBER: tuple[type, ...] = (int, float)
_OBJECT: tuple[type, ...] = (dict,)
_TRUTH: tuple[type, ...] = (bool,)


def _json_types(annotation: object) -> tuple[type, ...]:
    plain = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in get_args(annotation)]
    kinds = {get_origin(kind) or kind for kind in plain}
    if bool in kinds:
        return _TRUTH
    return (_NUMBER if kinds & {int, float} else ()) + (_OBJECT if dict in kinds else ())


#: Name → the types its JSON value may have.
NAMES: dict[str, tuple[type, ...]] = {
    name: _json_types(field.annotation) for name, field in AnswerOptions.model_fields.items()
}
#: The part of a form that holds all options as one JSON object.
PART = "options"

_WORDS = {
    _NUMBER: "a number",
    _OBJECT: "a JSON object",
    _NUMBER + _OBJECT: "a number or a JSON object",
    _TRUTH: "true or false",
}
_MAX_CHARACTERS = 1 << 16
_MAX_FIELDS = 32


def from_query(query: bytes) -> Options:
    """Options in a query string; raises InvalidRequest `invalid_request` with the field that is wrong."""
    if not query:
        return {}
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError as error:
        raise InvalidRequest("invalid_request", f"the query string cannot be read: {error}"[:300]) from error
    return merged(*({name: from_text(name, text)} for name, text in pairs))


def from_text(name: str, text: str) -> object:
    """The value of one option; raises as `from_query`."""
    _check_name(name)
    return _checked(name, _parsed(name, text))


def from_part(text: str) -> Options:
    """The options in the JSON object of a form's part; null is as good as nothing; raises as `from_query`."""
    content = _parsed(PART, text)
    if not isinstance(content, dict):
        raise _refused(PART, f"needed is {_WORDS[_OBJECT]}; found {text[:100]!r}")
    for name in content:  # ends at the first that is unknown
        _check_name(name)
    return {name: _checked(name, value) for name, value in content.items() if value is not None}


def merged(*parts: Mapping[str, object]) -> Options:
    options: Options = {}
    for part in parts:
        for name, value in part.items():
            if name in options:
                raise _refused(name, "it is given more than once")
            options[name] = value
    return options


def _parsed(name: str, text: str) -> object:
    if len(text) > _MAX_CHARACTERS:
        raise _refused(name, f"it has {len(text)} characters; at most {_MAX_CHARACTERS}")
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise _refused(name, f"{text[:100]!r} is no JSON: {str(error)[:200]}") from error


def _checked(name: str, value: object) -> object:
    if type(value) not in NAMES[name]:  # True is an integer to `isinstance`
        raise _refused(name, f"needed is {_WORDS[NAMES[name]]}; found {str(value)[:100]!r}")
    return value


def _check_name(name: str) -> None:
    if name not in NAMES:
        raise InvalidRequest(
            "invalid_request", f"{name[:100]!r} is no option; known are {', '.join(NAMES)}", field=name[:100]
        )


def _refused(name: str, what: str) -> InvalidRequest:
    return InvalidRequest("invalid_request", f"{name}: {what}", field=name)
