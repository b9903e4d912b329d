"""The arguments of a module: which inputs `forward` takes, in which order, and whether by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from fedlas.conversion.columns import named_inputs
from fedlas.errors import ConversionError


def arguments(module: nn.Module, given: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The inputs in the order in which `forward` takes them, and whether it is called by their names.

    Inputs without names (`x0`, `x1`, …) go by place, and so does a single one, which gets the module's name for it.

    Raises:
        ConversionError: several inputs by names that `forward` does not know.
    """
    parameters = inspect.signature(module.forward).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = [name for name, parameter in parameters.items() if name in given and parameter.kind in named]
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if known and set(needed) <= set(known):
        return {name: given[name] for name in known}, True
    if len(given) == 1:
        return dict(zip([next(iter(needed), "x")], given.values(), strict=True)), False
    if list(given) == list(named_inputs([0] * len(given))):
        return dict(given), False
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(given), True
    raise ConversionError(
        "inputs_mismatch",
        f"forward takes {', '.join(parameters)}, but the rows have {', '.join(given)}: name them as forward does",
    )
