"""Arrow streams: which columns are a model's inputs, and their rows; it builds nothing that was not judged before.

Whoever sends the table that a dataset was made of is answered as that dataset would be: a column of lists is an input,
all columns of numbers together, in their order, are the rows of a single input, and columns that are called as roles
are left out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from service.inference.formats.columns import READ, cells, files, kind_of, numbers, side_by_side
from service.inference.formats.intake import Intake, shown
from service.inference.formats.messages import built, check_batch, messages, reading, refuse, schema_of
from service.inference.images import decoded
from service.inference.inputs import Spec, check_row_counts
from service.registry.errors import InvalidRequest

_MAX_CACHED_BYTES = 1 << 18


def read_arrow(body: bytes, intake: Intake) -> dict[str, np.ndarray]:
    """The rows of every input.

    Raises:
        InvalidRequest: `invalid_arrow` for what is damaged, compressed, dictionary-encoded or of another extension
            type than fixed_shape_tensor; `wrong_inputs` where columns do not fit the inputs; `wrong_dtype`,
            `wrong_shape`, `non_finite`, `bad_image`, `no_preprocessing` as other formats do.
        TooLarge: `too_many_rows`, before anything is built.
    """
    stream, rows = messages(body), 0
    described = _described(next(stream)[0].metadata.to_pybytes())
    sources = _sources(described, intake)
    for message, header in stream:
        count = check_batch(header, message.body.size if message.body else 0, rows=rows, max_rows=intake.max_rows)
        if count == 0:  # some writers end so
            continue
        batch = built(message, described.schema)
        with reading():
            for source in sources:
                source.take(batch, rows)
        rows += count
    check_row_counts(dict.fromkeys(intake.names, rows), intake.max_rows)
    return intake.rows({source.spec["name"]: source.rows(intake) for source in sources})


@dataclass(slots=True)
class _Source:
    """The columns that hold the rows of an input, and what has been read of them.

    Attributes:
        kind: of the columns, as `kind_of` tells it.
        columns: place → name.
        whole: whether columns of numbers stand side by side, also where there is one.
    """

    spec: Spec
    kind: str
    columns: dict[int, str]
    whole: bool = False
    parts: list[np.ndarray] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)

    def take(self, batch: Any, first: int) -> None:
        """Read a batch, whose first row is the request's row `first`."""
        if self.kind == "files":
            for place in self.columns:
                self.files += files(batch.column(place), first=first)
            return
        columns = batch.columns
        reads = cells if self.whole else numbers
        made = [reads(name, columns[place], first=first) for place, name in self.columns.items()]
        part = side_by_side(made) if self.whole else made[0]
        if self.parts and self.parts[0].shape[1:] != part.shape[1:]:
            found = f"rows of shape {list(self.parts[0].shape[1:])}, and from row {first} on {list(part.shape[1:])}"
            message = f"the column {shown(self.columns.values())} has {found}: all rows need one shape"
            raise InvalidRequest("wrong_shape", message, field="inputs")
        self.parts.append(part)

    def rows(self, intake: Intake) -> np.ndarray:
        """All rows (N, *row) that were taken; true and false count as 1 and 0, as in datasets."""
        if self.kind == "files":
            return decoded(self.files, self.spec, intake.preprocessing)
        array = self.parts[0] if len(self.parts) == 1 else np.concatenate(self.parts)
        if array.dtype.kind == "b" and np.dtype(self.spec["dtype"]).kind != "b":
            array = array.view(np.uint8)
        if array.ndim == 1 and len(self.spec["shape"]) == 2:  # one of several inputs, which is a single number
            array = array[:, None]
        return array


@dataclass(frozen=True, slots=True)
class _Described:
    """A schema all of whose columns can be built, also those that are left out; name → kind, in their order."""

    schema: Any
    kinds: dict[str, str]


def _described(metadata: bytes) -> _Described:
    """What the message of a schema describes; clients send the same one again and again."""
    return (_judged if len(metadata) > _MAX_CACHED_BYTES else _remembered)(metadata)


def _judged(metadata: bytes) -> _Described:
    schema = schema_of(metadata)
    kinds: dict[str, str] = {}
    with reading():
        for column in schema:
            if column.name in kinds:
                message = f"the column {shown([column.name])} appears more than once"
                raise InvalidRequest("wrong_inputs", message, field="inputs")
            kind = kind_of(column.type)
            if kind is None:
                refuse(f"the column {shown([column.name])} is {str(column.type)[:100]}; read are {READ}")
            kinds[column.name] = kind
    return _Described(schema, kinds)


_remembered = lru_cache(maxsize=64)(_judged)


def _sources(described: _Described, intake: Intake) -> list[_Source]:
    """Where the rows of every input are; raises InvalidRequest `wrong_inputs`, `wrong_dtype`, `wrong_shape`."""
    kinds = described.kinds
    places = {name: place for place, name in enumerate(kinds)}
    usable = intake.without_roles(kinds)
    for name in usable:
        if kinds[name] in ("text", "time"):
            found = f"the column {shown([name])} is {described.schema.field(places[name]).type}"
            raise InvalidRequest("wrong_dtype", f"{found}: encode it as numbers, or leave it out", field="inputs")
    if len(intake.specs) == 1 and usable and all(kinds[name] == "number" for name in usable):
        _check_width(usable, kinds, intake)
        return [_Source(intake.specs[0], "number", {places[name]: name for name in usable}, whole=True)]
    chosen = intake.sources("columns of lists or of image files named", kinds)
    pairs = [(spec, chosen[spec["name"]]) for spec in intake.specs]
    return [_Source(spec, kinds[name], {places[name]: name}) for spec, name in pairs]


def _check_width(usable: list[str], found: Collection[str], intake: Intake) -> None:
    """Refuse a table that is not as wide as the model's row, before it is built."""
    wanted = intake.specs[0]["shape"][1:]
    if len(wanted) == 1 and isinstance(wanted[0], int) and wanted[0] != len(usable):
        columns = f"{len(usable)} columns of numbers ({shown(usable)}){intake.left_out(found)}"
        message = f"found {columns}; needed are rows of {wanted[0]} numbers"
        raise InvalidRequest("wrong_shape", message, field="inputs")
