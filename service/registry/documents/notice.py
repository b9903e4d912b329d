"""The notice: something that was found or done on the way, with its evidence (`fedlas.notice`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.registry.json_models import Document, JsonObject


class Notice(Document):
    """Something that was found or done, with what it rests on."""

    code: str = Field(description="Stable, for machines.")
    message: str
    evidence: JsonObject = Field(default_factory=dict, description="The figures and names behind the message.")
    severity: Literal["info", "warning", "error"] = Field(
        "warning",
        description="`info`: it was done for you; `warning`: it looks wrong; `error`: it is certainly wrong, and the "
        "job fails with this code unless `accept_warnings` names it.",
    )
