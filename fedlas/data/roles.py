"""Roles: which column or array is the label, the split, a group, told from names only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlas.errors import BadDataset

ROLES = ("label", "split", "group", "slices", "weight", "time", "id")

#: Names that also mean `label`, tried in this order.
LABEL_NAMES = ("label", "labels", "y", "target")


@dataclass(frozen=True)
class Roles:
    """role -> column name (`slices` -> a list of names), and what the owner should know about the choice."""

    names: dict[str, Any]
    warnings: list[str]

    def columns(self) -> set[str]:
        """All columns that are kept out of the inputs."""
        found: set[str] = set()
        for value in self.names.values():
            found.update([value] if isinstance(value, str) else value)
        return found


def find_roles(columns: Collection[str], given: Mapping[str, Any] | None) -> Roles:
    """The roles of the columns: what `given` says, else the well-known names.

    Raises:
        BadDataset: `unknown_role`, `unknown_role_column`, `no_label`.
    """
    names = _given_roles(columns, given or {})
    warnings: list[str] = []
    for role in ROLES:
        if role not in names and role in columns:
            names[role] = [role] if role == "slices" else role
    if "label" not in names:
        names["label"] = _label_name(columns)
    if given is None or "label" not in given:
        warnings += _rivals(columns, names)
    return Roles({role: names[role] for role in ROLES if role in names}, warnings)


def _given_roles(columns: Collection[str], given: Mapping[str, Any]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for role, value in given.items():
        if role not in ROLES:
            raise BadDataset("unknown_role", f"'{role}' is no role; the roles are {', '.join(ROLES)}")
        wanted = [value] if isinstance(value, str) else value
        if not isinstance(wanted, Sequence) or not all(isinstance(name, str) for name in wanted):
            raise BadDataset("unknown_role", f"the role '{role}' must name a column, got {value!r}")
        if role != "slices" and len(wanted) != 1:
            raise BadDataset("unknown_role", f"the role '{role}' takes one column, got {value!r}")
        for name in wanted:
            if name not in columns:
                raise BadDataset(
                    "unknown_role_column",
                    f"the role '{role}' names '{name}', but the columns are {_some(columns)}",
                )
        names[role] = list(wanted) if role == "slices" else wanted[0]
    return names


def _label_name(columns: Collection[str]) -> str:
    for name in LABEL_NAMES:
        if name in columns:
            return name
    raise BadDataset(
        "no_label",
        f"no label among {_some(columns) or 'no columns'}; name one of them {', '.join(LABEL_NAMES)}, "
        'or say roles={"label": "its name"}',
    )


def _some(columns: Collection[str]) -> str:
    names = list(columns)
    return ", ".join(names[:50]) + (f" and {len(names) - 50} more" if len(names) > 50 else "")


def _rivals(columns: Collection[str], names: Mapping[str, Any]) -> list[str]:
    taken = names["label"]
    return [
        f"'{name}' is read as an input, because '{taken}' is the label"
        for name in LABEL_NAMES
        if name in columns and name != taken and name not in names.values()
    ]
