"""Roles: which column or array is the label, the split, a group, known by names only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from shlex import quote
from typing import TypeAlias

import numpy as np

from fedlas.contract.profiles import Notice
from fedlas.data.dataset import Dataset, Integers
from fedlas.documents import adjustment, first_names
from fedlas.errors import BadDataset, Mismatch

ROLES = ("label", "split", "group", "slices", "weight", "time", "id")
#: Names that also mean `label`, tried in this order.
LABEL_NAMES = ("label", "labels", "y", "target")
#: Words for a label that people use besides, and for the score of a row; only to be proposed.
_LABEL_WORDS = (
    "class",
    "outcome",
    "diagnosis",
    "category",
    "truth",
    "human",
    "correct",
    "is_correct",
    "right",
    "answer",
)
_SCORE_WORDS = ("confidence", "judge", "logprob", "prob", "probability", "p", "rating", "grade", "similarity")
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
            "unknown_role_column", f"the role '{role}' names '{unknown[0]}', but the columns are {listed(columns)}"
        )
    return list(wanted)


def no_label(columns: Collection[str]) -> str:
    """Message that these columns hold no label, and how to name one."""
    label = likely(columns, _LABEL_WORDS, -1)
    return (
        f"no label among {listed(columns) or 'no columns'}{unnamed(columns)}; "
        f"name one of them {', '.join(LABEL_NAMES)}, "
        f'or say roles={{"label": "{label}"}} (on the command line --role label={quote(label)})'
    )


def no_scores(columns: Collection[str]) -> str:
    """Message that these columns hold no scores, and how to name them."""
    label = likely(columns, (*LABEL_NAMES, *_LABEL_WORDS), -1)
    score = likely([name for name in columns if name != label], _SCORE_WORDS, 0)
    return (
        f"no column is called score or signal_…, and none logit_0, probability_0, …; the columns are {listed(columns)}"
        f'{unnamed(columns)}. If the score is {score}, say roles={{"score": "{score}", "label": "{label}"}} '
        f"(fedlas calibrate YOUR_FILE --role score={quote(score)} --role label={quote(label)}). "
        "Rows for a model come after it: fedlas calibrate model.onnx YOUR_FILE"
    )


def unnamed(columns: Collection[str]) -> str:
    """A clause for columns that are called as numbers are; empty for others.

    >>> unnamed(["5.1", "3.5"]), unnamed(["f0", "1"])
    (' (is the line of names missing above the rows?)', '')
    """
    named = any(not re.fullmatch(r"\s*[-+.\d][-+.\deE]*\s*", name) for name in columns)
    return "" if named or not columns else " (is the line of names missing above the rows?)"


def likely(columns: Collection[str], words: Collection[str], place: int) -> str:
    """The column that one of these words calls, else that at the place.

    >>> likely(["f0", "Outcome", "f1"], ["outcome", "class"], -1), likely(["a", "b"], ["outcome"], -1)
    ('Outcome', 'b')
    """
    return next((name for name in columns if name.strip().lower() in words), ([*columns] or ["NAME"])[place])


def listed(columns: Collection[str]) -> str:
    """The names of the first 20."""
    names = list(columns)
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


_SHOWN = 50


@dataclass(frozen=True)
class ColumnOrder:
    """Where a model's columns stand among a dataset's.

    Attributes:
        names: of the model's columns, by the model or else by the dataset; None where neither names them.
        places: of the model's columns among the dataset's; None where they stand as the model takes them.
        described: a clause with the names for errors; empty where there are none.
    """

    names: list[str] | None = None
    places: Integers | None = None
    adjustments: list[Notice] = field(default_factory=list)
    described: str = ""

    @classmethod
    def of_dataset(cls, dataset: Dataset, wanted: Sequence[str] | None) -> ColumnOrder:
        """The order of a dataset's columns; errors also tell of an index that is none of them; raises as `of`."""
        index = "".join(f"; {told.message}" for told in dataset.adjustments if told.code == "index_dropped")
        try:
            order = cls.of(dataset.columns, wanted)
        except Mismatch as error:
            raise Mismatch(error.code, error.message + index) from error
        return replace(order, described=order.described + index)

    @classmethod
    def of(cls, given: Sequence[str] | None, wanted: Sequence[str] | None) -> ColumnOrder:
        """The order of a dataset's columns `given` in which they are a model's columns `wanted`.

        Raises:
            Mismatch: `columns_mismatch` where the dataset lacks a column.
        """
        if given is None or wanted is None or list(given) == list(wanted):
            owner, names = ("dataset", given) if wanted is None else ("model", wanted)
            return cls() if names is None else cls(list(names), described=f"; the {owner}'s columns are {some(names)}")
        place, known = {name: i for i, name in enumerate(given)}, frozenset(wanted)
        more = [name for name in given if name not in known]
        if missing := [name for name in wanted if name not in place]:
            surplus = f", and has {some(more)}, which the model does not know" if more else ""
            raise Mismatch(
                "columns_mismatch",
                f"the dataset lacks {some(missing)}{surplus}; the model's {len(wanted)} columns are {some(wanted)}; "
                f"the dataset's {len(given)} are {some(given)}",
            )
        places = np.array([place[name] for name in wanted], np.int64)
        adjustments = []
        if more:
            message = f"the model has no column {some(more)}: not used as an input"
            adjustments.append(adjustment("columns_dropped", message, columns=first_names(more)))
        if (np.diff(places) < 0).any():
            message = (
                f"the columns were put into the model's order: {some(wanted)}; in the dataset they are {some(given)}"
            )
            adjustments.append(
                adjustment("columns_reordered", message, dataset=first_names(given), model=first_names(wanted))
            )
        return cls(list(wanted), places, adjustments)


def some(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


#: How pandas calls an index without a name in parquet, and when it reads a csv file that it has written with one.
_NAMES = re.compile(r"__index_level_\d+__|Unnamed: 0(\.\d+)*")
#: The name that `reset_index` gives one; it may also be somebody's own column.
_RESET = "index"


def index_columns(
    names: Sequence[str], counts_rows: Callable[[str], bool], *, described: Collection[str] = ()
) -> list[str]:
    """Columns of a file that are a pandas index.

    Args:
        names: of all columns in their order; `to_csv` (and R's write.csv) leaves the first one without a name.
        counts_rows: tells whether a column is 0, 1, 2, ... from the first row to the last.
        described: what the file itself says are columns of an index.
    """
    index_names = [name for name in names if _NAMES.fullmatch(name) or name in described]
    index_names += [name for name in names[:1] if name == ""]
    return index_names + [name for name in names if name == _RESET and name not in index_names and counts_rows(name)]


def described_index(metadata: bytes | None) -> list[str]:
    """The columns that pandas' own metadata of a parquet file calls an index; none where there is no such metadata."""
    try:
        columns = json.loads(metadata or b"{}").get("index_columns", [])
    except (ValueError, AttributeError, RecursionError):
        return []
    return [name for name in columns if isinstance(name, str)] if isinstance(columns, list) else []


def dropped(names: Sequence[str]) -> list[Notice]:
    """The notice of an index that is no input; none without names."""
    if not names:
        return []
    shown = ", ".join(f"'{name}'" if name else "the first column, which has no name," for name in names[:20])
    message = f"{shown} {'are a pandas index' if len(names) > 1 else 'is a pandas index'} and no feature: not an input"
    return [adjustment("index_dropped", message, columns=list(names))]
