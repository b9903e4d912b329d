"""The server itself."""

from __future__ import annotations

from pydantic import Field

from fedlas.client.records.base import Document


class Server(Document):
    """What the server says it is."""

    name: str
    version: str
    extensions: list[str] = Field(default_factory=list)
