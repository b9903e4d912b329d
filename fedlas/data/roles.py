"""Roles: which column or array is the label, the split, a group, told from names only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from fedlas.errors import BadDataset

ROLES = ("label", "split", "group", "slices", "weight", "time", "id")

#: Names that also mean `label`, tried in this order.
LABEL_NAMES = ("label", "labels", "y", "target")

#: role -> column name; `slices` -> a list of names.
RoleNames: TypeAlias = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Roles:
    """The name of the column that has each role, and what the owner should know about the choice."""

    label: str | None = None
    split: str | None = None
    group: str | None = None
    slices: list[str] | None = None
    weight: str | None = None
    time: str | None = None
    id: str | None = None
    warnings: list[str] = field(default_factory=list)

    def names(self) -> RoleNames:
        """The roles that there are, with their columns."""
        return {role: name for role in ROLES if (name := getattr(self, role)) is not None}

    def columns(self) -> set[str]:
        """All columns that are kept out of the inputs."""
        return {name for names in self.names().values() for name in ([names] if isinstance(names, str) else names)}


def find_roles(columns: Collection[str], given: RoleNames | None, *, label_needed: bool = True) -> Roles:
    """The roles of the columns: what `given` says, else the well-known names.

    Raises:
        BadDataset: `unknown_role`, `unknown_role_column`, `no_label` where one is needed.
    """
    names = {role: _given(role, value, columns) for role, value in (given or {}).items()}
    for role in ROLES:
        if role not in names and role in columns:
            names[role] = [role]
    if "label" not in names and (label := next((name for name in LABEL_NAMES if name in columns), None)) is not None:
        names["label"] = [label]
    if "label" not in names and label_needed:
        raise BadDataset("no_label", f"{no_label(columns)}; rows without labels are sent with purpose=predict")
    slices = names.pop("slices", None)
    one = {role: name for role, (name,) in names.items()}
    rivals = [name for name in LABEL_NAMES if name in columns and name not in one.values()]
    return Roles(
        label=one.get("label"),
        split=one.get("split"),
        group=one.get("group"),
        slices=slices,
        weight=one.get("weight"),
        time=one.get("time"),
        id=one.get("id"),
        warnings=[f"'{name}' is read as an input, because '{one['label']}' is the label" for name in rivals]
        if given is None or "label" not in given
        else [],
    )


def _given(role: str, value: object, columns: Collection[str]) -> list[str]:
    if role not in ROLES:
        raise BadDataset("unknown_role", f"'{role}' is no role; the roles are {', '.join(ROLES)}")
    wanted = [value] if isinstance(value, str) else value
    if not isinstance(wanted, Sequence) or not all(isinstance(name, str) for name in wanted):
        raise BadDataset("unknown_role", f"the role '{role}' must name a column, got {value!r}")
    if role != "slices" and len(wanted) != 1:
        raise BadDataset("unknown_role", f"the role '{role}' takes one column, got {value!r}")
    if unknown := [name for name in wanted if name not in columns]:
        raise BadDataset(
            "unknown_role_column", f"the role '{role}' names '{unknown[0]}', but the columns are {_some(columns)}"
        )
    return list(wanted)


def no_label(columns: Collection[str]) -> str:
    """What is missing among these columns, and how it is named."""
    return (
        f"no label among {_some(columns) or 'no columns'}; name one of them {', '.join(LABEL_NAMES)}, "
        'or say roles={"label": "its name"} (on the command line --role label=NAME)'
    )


def _some(columns: Collection[str]) -> str:
    names = list(columns)
    return ", ".join(names[:50]) + (f" and {len(names) - 50} more" if len(names) > 50 else "")
