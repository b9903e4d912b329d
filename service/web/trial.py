"""A trial as it was entered: rows in one of the forms that a page offers, and the choices beside them."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import JsonValue
from starlette.datastructures import ImmutableMultiDict

from service.inference.profile import ServingProfile
from service.registry.errors import InvalidRequest, TooLarge
from service.web.abstention import Costs
from service.web.entered_rows import inputs_of, row_of

#: Rows and bytes of text that are answered here: they are read in this process, which answers others meanwhile.
_MOST_ROWS = 50
MOST_TEXT = 500_000
#: Of a text in an error message.
_SHOWN = 40
_TOP_K = 5


@dataclass(frozen=True)
class Entered:
    """What somebody has entered, whether or not it can be meant, as it is shown again."""

    rows: str = ""
    cells: Sequence[str] = ()
    images: Sequence[bytes] = ()
    coverage: str = ""
    max_error: str = ""
    abstain_below: str = "0"
    error_cost: str = "10"
    abstention_cost: str = "1"

    @classmethod
    def of(cls, form: ImmutableMultiDict[str, Any], images: Sequence[bytes] = ()) -> Self:
        """What a form, or a query, holds."""

        def text(name: str, default: str = "") -> str:
            found = form.get(name, default)
            return found if isinstance(found, str) else default

        return cls(
            rows=text("rows"),
            cells=[cell for cell in form.getlist("cell") if isinstance(cell, str)],
            images=images,
            coverage=text("coverage"),
            max_error=text("max_error"),
            abstain_below=text("abstain_below", cls.abstain_below),
            error_cost=text("error_cost", cls.error_cost),
            abstention_cost=text("abstention_cost", cls.abstention_cost),
        )

    def inputs(self, profile: ServingProfile) -> JsonValue:
        """The rows; raises InvalidRequest, and TooLarge for more than are answered here."""
        found = self._inputs(profile)
        rows = next(iter(found.values()), None) if isinstance(found, dict) else found
        if isinstance(rows, list) and len(rows) > _MOST_ROWS:
            message = (
                f"{len(rows):,} rows were entered; up to {_MOST_ROWS} are answered here, and any number by a client"
            )
            raise TooLarge("too_many_rows", message)
        return found

    def _inputs(self, profile: ServingProfile) -> JsonValue:
        if self.images:
            return [{"b64": b64encode(image).decode()} for image in self.images]
        if profile.columns is not None and not self.rows.strip() and any(self.cells):
            return row_of(profile.columns, self.cells)
        if len(self.rows) > MOST_TEXT:
            message = (
                f"{len(self.rows):,} letters were entered; up to {MOST_TEXT:,} are read here, and more by a client"
            )
            raise TooLarge("too_large", message)
        return inputs_of(self.rows, profile)


@dataclass(frozen=True)
class Choices:
    """The numbers beside the rows: when to abstain, what is asked for, and what errors and abstentions cost."""

    abstain_below: float = 0.0
    coverage: float | None = None
    max_error: float | None = None
    costs: Costs = field(default_factory=Costs)

    @classmethod
    def of(cls, entered: Entered) -> Choices:
        """Raises InvalidRequest."""
        return cls(
            abstain_below=_number("The confidence to answer from", entered.abstain_below or "0", most=1),
            coverage=_number("The prediction set", entered.coverage, most=1) if entered.coverage else None,
            max_error=_number("The promise", entered.max_error, most=1) if entered.max_error else None,
            costs=Costs(
                error=_number("The cost of a wrong answer", entered.error_cost or "0"),
                abstention=_number("The cost of an abstention", entered.abstention_cost or "0"),
            ),
        )

    def options(self, num_classes: int) -> dict[str, JsonValue]:
        """The options of a request for predictions."""
        asked = {"coverage": self.coverage, "max_error": self.max_error, "abstain_below": self.abstain_below or None}
        return {
            "top_k": min(_TOP_K, num_classes),
            **{name: value for name, value in asked.items() if value is not None},
        }


def _number(name: str, text: str, *, most: float = 1e9) -> float:
    try:
        found = float(text.replace(",", ".", 1))
    except ValueError:
        found = math.nan
    if not 0 <= found <= most:
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        raise InvalidRequest("invalid_request", f"{name} is {shown!r}; needed is a number from 0 to {most:,.0f}")
    return found
