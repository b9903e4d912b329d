"""What all documents share: unknown fields are refused, and what is stored is what was found."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, JsonValue

from service.registry.text import objection_within

JsonObject = dict[str, JsonValue]


def is_absent(value: object) -> bool:
    """Whether a field has no value; `exclude_if` leaves it out of the JSON."""
    return value is None


class Document(BaseModel):
    """A JSON object with known fields; an unknown field, NaN or infinity is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True)

    @classmethod
    def arrived(cls, found: object) -> Self:
        """The document that another process sent.

        Raises:
            ValueError: the JSON is not this document, or holds text that no database stores and no answer carries.
        """
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
