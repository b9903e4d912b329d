"""The kinds of mistakes: what each does to a right pair, where it makes sense, and what has to be said about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.mistakes.bases import Base
from benchmarks.mistakes.pair import Case, Pair

#: Makes the mistake, or answers None where it makes no sense for this model.
Make = Callable[[Base], Pair | None]


@dataclass(frozen=True)
class Mistake:
    """One kind of mistake; its fields are those of `Case`."""

    name: str
    make: Make
    codes: tuple[str, ...]
    remedy: str
    told: str = ""

    def cases(self, bases: list[Base], wanted: str = "") -> Iterator[Case]:
        """One case for each model to which it can be done, where `mistake × model` holds what is `wanted`."""
        for base in bases:
            if wanted in f"{self.name} × {base.name}" and (pair := self.make(base)) is not None:
                yield Case(self.name, base.kind, base.name, pair, self.codes, self.remedy, self.told)


class Kinds(list[Mistake]):
    """Mistakes, in the order in which their functions stand in a module."""

    def kind(self, name: str, *codes: str, remedy: str = "", told: str = "") -> Callable[[Make], Make]:
        """A decorator: the function makes the mistake `name`, which any of `codes` names."""

        def kept(make: Make) -> Make:
            self.append(Mistake(name, make, codes, remedy, told))
            return make

        return kept
