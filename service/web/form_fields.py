"""Form fields: a dotted name is a nested field of the API, and what was left empty is not sent."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue, ValidationError

from service.api.problems import Problem, invalid, problem_of
from service.registry.documents import JsonObject
from service.registry.errors import InvalidRequest, RegistryError

_SHOWN = 100


@dataclass(frozen=True)
class FormState:
    """A form as it is shown: what was entered, and what of it was refused.

    Attributes:
        prefix: of the fields' names on the page, where a page has more than one form's worth of them.
    """

    entered: Mapping[str, str] = field(default_factory=dict)
    problem: Problem | None = None
    prefix: str = ""

    def value(self, name: str, default: str = "") -> str:
        """What stands in a field."""
        return self.entered.get(name, default)

    def error(self, name: str) -> str | None:
        """What was refused of a field."""
        refused = self.problem.errors if self.problem is not None else []
        return next((one.message for one in refused if one.field == name), None)


def nested(fields: Mapping[str, str], *, numbers: Collection[str] = ()) -> JsonObject:
    """The fields as the API's object; what should be a number and is none is left to be refused there.

    Raises InvalidRequest for names that no form has: deeper ones, and a field that is an object, too.

    >>> nested({"budget.minutes": "5", "seed": "", "method": "auto"}, numbers={"budget.minutes", "seed"})
    {'budget': {'minutes': 5}, 'method': 'auto'}
    """
    made: JsonObject = {}
    for name, text in fields.items():
        if not text.strip():
            continue
        outer, _, inner = name.partition(".")
        value = number_or_text(text) if name in numbers else text.strip()
        place = made.setdefault(outer, {}) if inner else made
        if "." in inner or not isinstance(place, dict) or isinstance(made.get(name), dict):
            raise InvalidRequest("invalid_request", f"no form here has a field {name[:_SHOWN]!r}", field=name[:_SHOWN])
        place[inner or outer] = value
    return made


def number_or_text(text: str) -> JsonValue:
    """A number as one enters it.

    >>> number_or_text(" 12 "), number_or_text("0,5"), number_or_text("auto"), number_or_text("nan")
    (12, 0.5, 'auto', 'nan')
    """
    plain = text.strip()
    try:
        return int(plain)
    except ValueError:
        pass
    try:
        value = float(plain.replace(",", "."))
    except ValueError:
        return plain
    return value if abs(value) < float("inf") else plain


def refused(path: str, error: RegistryError | ValidationError) -> Problem:
    """The problem that the API answers to the same error."""
    answer = problem_of(path, error) if isinstance(error, RegistryError) else invalid(path, error)
    return Problem.model_validate_json(bytes(answer.body))
