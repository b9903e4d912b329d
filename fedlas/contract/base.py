"""The bases of all shapes, how each is read, and the kinds of values that several have in common.

A shape that arrives from a stranger or another process is read strictly: an unknown field, another type, NaN or text
that no database keeps is an error. A shape that another version wrote is read by `read`: an unknown field is passed
over, and an enumeration or union that has grown yields the value as it came.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema, from_json

JsonObject = dict[str, JsonValue]
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


def _can_be_published(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise ValueError("a published name is a letter or digit, then up to 99 letters, digits, '.', '_' and '-'")
    if name.startswith(("mdl_", "cal_")):
        raise ValueError("a published name must not look like an id (mdl_…, cal_…)")
    return name


#: A sentence of ours says what is needed, where pydantic's would quote the pattern.
PublishedName = Annotated[str, AfterValidator(_can_be_published), Field(json_schema_extra={"pattern": f"^{_NAME}$"})]
Value = TypeVar("Value")
Item = TypeVar("Item")


def objection(text: str) -> str | None:
    """Reason to refuse this text, as the end of "it …"; None if it can be kept.

    PostgreSQL refuses NUL within text, and half a surrogate pair, which JSON can spell (`"\\ud800"`), is in no
    encoding: a record that held one would break every list it stands in.

    >>> objection("Zoë 🐈") is None, objection("a\\0b"), objection("\\ud800")
    (True, 'holds the character NUL (U+0000)', 'holds half of a surrogate pair (U+D800)')
    """
    if "\0" in text:
        return "holds the character NUL (U+0000)"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"holds half of a surrogate pair (U+{ord(text[error.start]):04X})"
    return None


def texts(value: object) -> Iterator[str]:
    """Every text within a value that JSON can hold, names of members among them."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                yield text
            case dict() as members:
                waiting += [*members, *members.values()]
            case list() | tuple() as items:
                waiting += items


def objection_within(value: object) -> str | None:
    """Reason to refuse some text within this value; None if all can be kept."""
    return next((reason for text in texts(value) if (reason := objection(text)) is not None), None)


def is_absent(value: object) -> bool:
    """True for a field without a value; `exclude_if` leaves it out of the JSON."""
    return value is None


def _keepable(value: Value) -> Value:
    if reason := objection_within(value):
        raise ValueError(f"it {reason}, and such text cannot be kept")
    return value


#: Text of a request outside a `Strict` body, a query parameter for example: 422 where it could not be kept.
Text = Annotated[str, AfterValidator(_keepable)]
#: The id of a record, or a published name, within a request; ids have 40 characters at most, names 100.
Reference = Annotated[str, Field(max_length=200)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

#: A figure that may not exist: null in JSON, which has neither NaN nor infinity, and NaN in Python.
Figure = Annotated[
    float,
    AllowInfNan(True),
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: value if math.isfinite(value) else None, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]}),
]


def as_list(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


#: Figures in a row, which may be given as an array.
Figures = Annotated[list[Figure], BeforeValidator(as_list)]
#: Counts in a row, which may be given as an array.
Counts = Annotated[list[int], BeforeValidator(as_list)]

#: The validation context of what another version may have written.
ANOTHER_VERSION = {"another_version": True}


def from_another_version(info: ValidationInfo) -> bool:
    """True while a value is read that another version may have written."""
    return bool(info.context and info.context.get("another_version"))


class _Open:
    """The annotation of a `Literal` in an answer: another version may have added a value, which is read as it is."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_wrap_validator_function(_known_or_new, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        values = handler(schema)
        return {"anyOf": [values, {"type": "string"}]} if handler.mode == "serialization" else values


def _known_or_new(value: object, known: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
    try:
        return known(value)
    except ValidationError:
        if isinstance(value, str) and from_another_version(info):
            return value
        raise


OPEN = _Open()


def _with_unknown(value: Any, content: Any) -> Any:
    """The JSON of a value with the fields that this version does not know, which pydantic leaves out."""
    if isinstance(value, Shape):
        keys = {
            name: type(value).model_fields[name].alias or name for name in value.model_fields_set & vars(value).keys()
        }
        known = {key: _with_unknown(getattr(value, name), content[key]) for name, key in keys.items() if key in content}
        return {**content, **known, **(value.model_extra or {})}
    if isinstance(value, list | tuple):
        return [_with_unknown(item, part) for item, part in zip(value, content, strict=True)]
    if isinstance(value, dict):
        return {key: _with_unknown(item, content[key]) for key, item in value.items()}
    return content


class Shape(BaseModel):
    """The base of all: closed to unknown fields where it is sent, open where it is answered."""

    # Schemas are built on first use: a program that imports the contract uses few of them.
    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, serialize_by_alias=True, validate_by_name=True, defer_build=True
    )

    def __str__(self) -> str:
        return repr(self)

    @classmethod
    def read(cls, content: object) -> Self:
        """The shape that another version may have written; an unknown field is passed over."""
        return cls.model_validate(content, extra="ignore", context=ANOTHER_VERSION)

    @classmethod
    def from_answer(cls, content: object) -> Self:
        """The shape that a server of any version has answered; an unknown field is an attribute all the same."""
        return cls.model_validate(content, extra="allow", context=ANOTHER_VERSION)

    @property
    def raw(self) -> dict[str, Any]:
        """The JSON that this came from."""
        content: dict[str, Any] = _with_unknown(self, self.model_dump(mode="json", exclude_unset=True))
        return content

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        json_schema = handler(schema)
        if handler.mode == "serialization":
            handler.resolve_ref_schema(json_schema).pop("additionalProperties", None)
        return json_schema


class Strict(Shape):
    """A request body: `true` or `"3"` is no number, and text in it, wherever it stands, is text that can be kept."""

    # Built at once: FastAPI hides a warning about bodies while it declares them, and not later.
    model_config = ConfigDict(strict=True, defer_build=False)

    @field_validator("*")
    @classmethod
    def _text_is_keepable(cls, value: Value) -> Value:
        return _keepable(value)


class Document(Shape):
    """A JSON object that passes between processes, or that a row or file keeps."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def arrived(cls, content: object) -> Self:
        """A document that another process sent; raises ValueError for other JSON and text that no database stores."""
        if reason := objection_within(content):
            raise ValueError(f"a text of the {cls.__name__} {reason}")
        return cls.model_validate(content)

    @classmethod
    def arrived_json(cls, content: bytes) -> Self:
        """A document in a file that another process left; NaN and infinity are refused, since they are no JSON."""
        try:
            document = from_json(content, allow_inf_nan=False)
        except ValueError as error:
            raise ValueError(f"the {cls.__name__} is no JSON: {error}") from None
        return cls.arrived(document)

    def changed(self, **fields: Any) -> Self:
        """A copy of the document with other values of some fields."""
        return self.model_validate({**self.__dict__, **fields})

    def stored(self) -> JsonObject:
        """The JSON to keep: exactly the fields that were given, so that a default may change later."""
        return self.model_dump(mode="json", exclude_unset=True)


class Page(Shape, Generic[Item]):
    """One page of a list, newest first."""

    data: list[Item] = Field(description="The records of this page.")
    has_more: bool = Field(description="Whether older records follow.")
    next: str | None = Field(None, description="The `after` of the next page; null on the last one.")

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return f"{getattr(params[0], '__name__', 'Item')}List"
