"""A route of the serving application."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from service.serving.messages import Answer

_PARAMETER = re.compile(r"\{\w+\}")


@dataclass(frozen=True)
class ServingRoute:
    """`POST` to a path that the serving application answers itself.

    Attributes:
        path: with parameters as `{name}`, each one segment.
        handler: answers a request; the parameters are given in the order of the path.
    """

    path: str
    handler: Callable[..., Awaitable[Answer]]
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(_PARAMETER.sub("([^/]+)", self.path)))
