"""All families; a module registers what it holds when it is imported."""

from benchmarks.weight.families import (  # noqa: F401
    answers,
    forms,
    heads,
    images,
    json_bodies,
    keyless,
    records,
    rows,
    tensors,
)
from benchmarks.weight.families.family import FAMILIES, Family, family

__all__ = ["FAMILIES", "Family", "family"]
