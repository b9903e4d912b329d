"""Request bodies: strict JSON, and text that every database stores."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from service.registry.text import objection_within

Value = TypeVar("Value")


def _keepable(value: Value) -> Value:
    if found := objection_within(value):
        raise ValueError(f"it {found}, and such text cannot be kept")
    return value


#: Text of a request outside a `Strict` body, a query parameter for example: 422 where it could not be kept.
Text = Annotated[str, AfterValidator(_keepable)]
#: The id of a record, or a published name, within a request; ids have 40 characters at most, names 100.
Reference = Annotated[str, Field(max_length=200)]


class Strict(BaseModel):
    """A request body: an unknown field is an error, not a silent no-op, and `true` or `"3"` is no number.

    Text in it, wherever it stands, is text that can be kept: no NUL, no half of a surrogate pair.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    @field_validator("*")
    @classmethod
    def _text_is_keepable(cls, value: Value) -> Value:
        return _keepable(value)
