"""The bases of JSON models: request bodies, documents, and the text that every database keeps and every answer carries.

PostgreSQL refuses NUL within text, and half a surrogate pair, which JSON can spell (`"\\ud800"`), is in no encoding: a
record that held one would break every list it stands in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, field_validator

JsonObject = dict[str, JsonValue]
Value = TypeVar("Value")


def objection(text: str) -> str | None:
    """Reason to refuse this text, as the end of "it …"; None if it can be kept.

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
    return next((found for text in texts(value) if (found := objection(text)) is not None), None)


def is_absent(value: object) -> bool:
    """Whether a field has no value; `exclude_if` leaves it out of the JSON."""
    return value is None


def _keepable(value: Value) -> Value:
    if found := objection_within(value):
        raise ValueError(f"it {found}, and such text cannot be kept")
    return value


#: Text of a request outside a `Strict` body, a query parameter for example: 422 where it could not be kept.
Text = Annotated[str, AfterValidator(_keepable)]
#: The id of a record, or a published name, within a request; ids have 40 characters at most, names 100.
Reference = Annotated[str, Field(max_length=200)]


class Stored(BaseModel):
    """A JSON object that rows hold: strict where it arrives, and lenient where it is read from a row."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @classmethod
    def read(cls, stored: object) -> Self:
        """The content of a row; what a newer or older release wrote beside the known fields is passed over."""
        return cls.model_validate(stored, extra="ignore")


class Strict(Stored):
    """A request body: an unknown field is an error, not a silent no-op, and `true` or `"3"` is no number.

    Text in it, wherever it stands, is text that can be kept: no NUL, no half of a surrogate pair.
    """

    model_config = ConfigDict(strict=True)

    @field_validator("*")
    @classmethod
    def _text_is_keepable(cls, value: Value) -> Value:
        return _keepable(value)


class Document(Stored):
    """A JSON object that passes between processes; an unknown field, NaN or infinity is an error."""

    model_config = ConfigDict(frozen=True, serialize_by_alias=True)

    @classmethod
    def arrived(cls, found: object) -> Self:
        """A document that another process sent; raises ValueError for other JSON and text that no database stores."""
        if objection := objection_within(found):
            raise ValueError(f"a text of the {cls.__name__} {objection}")
        return cls.model_validate(found)

    def stored(self) -> JsonObject:
        """The JSON to keep: exactly the fields that were given, so that a default may change later."""
        return self.model_dump(mode="json", exclude_unset=True)


class TensorSpec(Document):
    """One input of a model or dataset; the first dimension is the batch, `N`."""

    name: str
    dtype: str
    shape: list[int | str]
