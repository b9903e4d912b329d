"""How rows are read where a file or request leaves it open."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.registry.json_models import Document


class Reading(Document):
    """What stands for what is not there."""

    padding: dict[str, int | float] | None = Field(None, description="Input → the number that fills its shorter rows.")
    missing: Literal["reject", "nan"] = "reject"
