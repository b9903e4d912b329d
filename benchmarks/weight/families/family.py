"""A family of attacks: a space of parameters, and how a point of it becomes requests.

A new one is a function in a module of this folder; its keyword parameters are the dimensions::

    @family("name", "what costs the service something here", count=Size(1, 1 << 20), kind=choice("a", "b"))
    def _(world: World, *, count: int, kind: str) -> Attack:
        return one(request("POST", world.predict("small"), listed(kind.encode(), count), key=world.key))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.weight.requests import Attack
from benchmarks.weight.space import Dimension, Point, Space
from benchmarks.weight.world import World

Build = Callable[..., Attack]

FAMILIES: dict[str, Family] = {}


@dataclass(frozen=True)
class Family:
    """Attacks that differ in their parameters only."""

    name: str
    about: str
    space: Space
    build: Build

    def attack(self, world: World, point: Point) -> Attack:
        """The attack at a point; raises TooBig."""
        return self.build(world, **point.values)


def family(name: str, about: str, /, **space: Dimension) -> Callable[[Build], Build]:
    """Make the decorated function a family."""

    def register(build: Build) -> Build:
        FAMILIES[name] = Family(name, about, space, build)
        return build

    return register
