"""Remedies: what undoes the usual mistakes of inputs, each tried on rows with labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fedlas.notice import shortened
from fedlas.preconditions.remedies.columns import order_remedies
from fedlas.preconditions.remedies.images import image_remedies
from fedlas.preconditions.remedies.remedy import Remedy, Rows
from fedlas.preconditions.remedies.scale import scale_remedies
from fedlas.preconditions.remedies.tokens import token_remedies

__all__ = ["Remedy", "Rows", "usual_remedies"]


def usual_remedies(
    names: Sequence[str], rows: Rows, columns: Sequence[str] | None, vocabularies: Mapping[str, int]
) -> Iterator[Remedy]:
    """The remedies of what is usually done wrong to such inputs, the likeliest first."""
    for place, array in enumerate(rows):
        name = f"'{shortened(names[place])}'"
        if array.dtype.kind == "f" or (array.ndim == 4 and array.dtype.kind in "ui"):
            yield from scale_remedies(place, name, array)
            yield from image_remedies(place, name, array)
            if array.ndim == 2:
                yield from order_remedies(place, name, array, columns)
    yield from token_remedies(names, rows, vocabularies)
