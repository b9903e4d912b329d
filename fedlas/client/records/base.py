"""The base of all records: what the server answered, with fields of a newer server kept as they came."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """A typed part of an answer; unknown fields are kept, so that a newer server works."""

    # Schemas are built on first use: a program that imports the client uses few of them.
    model_config = ConfigDict(extra="allow", populate_by_name=True, defer_build=True)

    @property
    def raw(self) -> dict[str, Any]:
        """The JSON that this came from."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)
