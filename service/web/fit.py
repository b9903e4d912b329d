"""The fit of a model and a dataset, as far as their records tell it; a dry run tells the rest.

What is said here is what `fedlas.data.alignment` would refuse when a job has begun.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from service.registry.contract import DatasetRecord, ModelRecord
from service.registry.documents import TensorSpec

_SHOWN = 8
#: Of a number that stands for a class.
_DIGITS = 9


def misfits(model: ModelRecord, dataset: DatasetRecord) -> list[str]:
    """Sentences on what does not belong together, each with its remedy; none as long as one is being inspected."""
    if model.status != "ready" or dataset.status != "ready":
        return []
    if dataset.labelled is False:
        return ["The rows have no labels, so nothing can be fitted to them or judged on them: send them with a label."]
    return [*_classes(model, dataset), *_inputs(model, dataset)]


def are_numbers(names: Sequence[str] | None) -> bool:
    """Whether classes are named by their numbers, as they are where nobody has named them.

    >>> are_numbers(["0", "1"]), are_numbers(["cat", "1"]), are_numbers(["²"])
    (True, False, False)
    """
    return all(name.isascii() and name.isdecimal() and len(name) <= _DIGITS for name in names or ())


def _classes(model: ModelRecord, dataset: DatasetRecord) -> Iterator[str]:
    known, found, most = model.class_names or [], dataset.class_names or [], model.num_classes or 0
    if not are_numbers(found) and not are_numbers(known):
        names = set(known)
        if strangers := [name for name in found if name not in names]:
            yield (
                f"The model does not know the {_classes_named(strangers)}; it knows {_some(known)}. If these are the "
                "same classes under other names, send the model again with class names as the dataset has them, in "
                "the order of its outputs."
            )
    elif not are_numbers(found) and len(found) != most:
        yield (
            f"The dataset has {len(found):,} named classes and the model {most:,} unnamed ones: send the model again "
            "with its class names, so that labels can be matched by name."
        )
    elif are_numbers(found) and are_numbers(known) and (beyond := [name for name in found if int(name) >= most]):
        begins_at_one = "0" not in found and int(beyond[0]) == most
        remedy = "Labels seem to begin at one: subtract 1." if begins_at_one else "Compare the numbering of the two."
        yield f"Labels reach {max(map(int, beyond)):,}, and the model's {most:,} classes end at {most - 1:,}. {remedy}"


def _inputs(model: ModelRecord, dataset: DatasetRecord) -> Iterator[str]:
    wanted, there = model.inputs or [], {one.name: one for one in dataset.inputs or []}
    if len(wanted) > 1 and (missing := [one.name for one in wanted if one.name not in there]):
        yield (
            f"The model takes {_some([one.name for one in wanted])}; the dataset has no {_some(missing)}. Name its "
            "arrays or columns as the model names its inputs."
        )
    elif len(wanted) == 1 and model.preprocessing is None:
        rows = there.get(wanted[0].name) or (next(iter(there.values())) if len(there) == 1 else None)
        if rows is not None and not _fits(wanted[0], rows):
            yield (
                f"The model takes rows of {_shape(wanted[0])}, the dataset has rows of {_shape(rows)}. "
                f"{_reshaping(wanted[0], rows)}"
            )


def _fits(wanted: TensorSpec, found: TensorSpec) -> bool:
    sizes, there = wanted.shape[1:], found.shape[1:]
    return len(sizes) == len(there) and all(
        isinstance(one, str) or isinstance(other, str) or one == other for one, other in zip(sizes, there, strict=True)
    )


def _reshaping(wanted: TensorSpec, found: TensorSpec) -> str:
    sizes = [one for one in wanted.shape[1:] if isinstance(one, int)]
    there = [one for one in found.shape[1:] if isinstance(one, int)]
    if len(sizes) == len(wanted.shape) - 1 and prod(sizes) == prod(there):
        same = "transpose" if sorted(sizes) == sorted(there) and len(sizes) == len(there) else "reshape"
        return f"Send the rows again, and {same} each of them to {_shape(wanted)} before."
    return "Send rows as the model takes them, or the model that belongs to these rows."


def _shape(spec: TensorSpec) -> str:
    return " × ".join(map(str, spec.shape[1:])) or "one number"


def _classes_named(names: Sequence[str]) -> str:
    return f"class {names[0]!r}" if len(names) == 1 else f"classes {_some(names)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
