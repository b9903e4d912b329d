"""What a model takes, for readers of any format: which array is which input, and rows in the input's type."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.inference.images import decoded
from service.inference.inputs import Spec, check_row_counts, fit
from service.registry.errors import InvalidRequest

#: Names that make a column or an array of a dataset something else than an input; so they do in a request, where
#: whoever sends a table as it was trained on would otherwise feed the label to the model.
ROLE_NAMES = frozenset({"label", "labels", "y", "target", "split", "group", "slices", "weight", "time", "id"})
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Intake:
    """The inputs of a model, how image files become rows of it, and how many rows a request may have."""

    specs: Sequence[Spec]
    preprocessing: Mapping[str, Any] | None
    max_rows: int

    @classmethod
    def of(cls, profile: Mapping[str, Any], max_rows: int) -> Intake:
        """What the model with this profile takes."""
        return cls(profile["inputs"], profile.get("preprocessing"), max_rows)

    @property
    def names(self) -> list[str]:
        """Of the inputs, in the model's order."""
        return [spec["name"] for spec in self.specs]

    def only(self, what: str, instead: str) -> Spec:
        """The single input; InvalidRequest `wrong_inputs` where there are several, which `what` cannot hold."""
        if len(self.specs) > 1:
            message = f"{what}, and the model has the inputs {shown(self.names)}: send {instead}"
            raise InvalidRequest("wrong_inputs", message, field="inputs")
        return self.specs[0]

    def without_roles(self, names: Collection[str]) -> list[str]:
        """The names that are not left out because they name a role in datasets; an input of the model never is."""
        inputs = self.names
        return [name for name in names if name in inputs or name not in ROLE_NAMES]

    def sources(self, what: str, found: Collection[str]) -> dict[str, str]:
        """Input → name among `found` of what holds its rows; InvalidRequest `wrong_inputs` unless all fit together.

        A model with one input takes one array of any name.
        """
        usable, wanted = self.without_roles(found), self.names
        if len(wanted) == len(usable) == 1:
            return {wanted[0]: usable[0]}
        if set(usable) != set(wanted):
            message = f"needed are {what} {shown(wanted)}; found {shown(usable)}{self.left_out(found)}"
            raise InvalidRequest("wrong_inputs", message, field="inputs")
        return {name: name for name in wanted}

    def left_out(self, found: Collection[str]) -> str:
        """A clause that says which of these names are roles, or nothing."""
        usable = set(self.without_roles(found))
        roles = [name for name in found if name not in usable]
        return f" ({shown(roles)} left out: so roles of datasets are called)" if roles else ""

    def rows(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The model's arrays from arrays of numbers by input; raises as `parse_inputs`."""
        for spec in self.specs:
            if arrays[spec["name"]].ndim != len(spec["shape"]):
                fit(arrays[spec["name"]], spec)  # says what is wrong with the shape
        check_row_counts({name: len(array) for name, array in arrays.items()}, self.max_rows)
        return {
            spec["name"]: np.require(fit(arrays[spec["name"]], spec), requirements=("C", "A")) for spec in self.specs
        }

    def images(self, files: Sequence[bytes]) -> dict[str, np.ndarray]:
        """The rows of the single input from image files; raises as `decoded`."""
        spec = self.only("image files are rows of one input", "JSON with rows by name")
        check_row_counts({spec["name"]: len(files)}, self.max_rows)
        return {spec["name"]: decoded(files, spec, self.preprocessing)}


def shown(names: Collection[str]) -> str:
    """Names in a message."""
    listed = ", ".join(repr(str(name)[:60]) for name in list(names)[:_SHOWN])
    more = len(names) - _SHOWN
    return (listed + (f" and {more} more" if more > 0 else "")) or "none"
