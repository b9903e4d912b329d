"""What a model takes, for readers of any format: the single input that has no name in a body, in the model's type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.inference.excerpts import shown
from service.inference.images import decoded
from service.inference.signature import Spec, check_row_counts, fit
from service.registry.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class InputTypes:
    """The inputs of a model, how image files become rows of it, and how many rows a request may have."""

    specs: Sequence[Spec]
    preprocessing: Mapping[str, Any] | None
    max_rows: int

    @classmethod
    def of(cls, profile: Mapping[str, Any], max_rows: int) -> InputTypes:
        """What the model with this profile takes."""
        return cls(profile["inputs"], profile.get("preprocessing"), max_rows)

    def only(self, what: str, instead: str) -> Spec:
        """The single input; InvalidRequest `wrong_inputs` where there are several, which `what` cannot hold."""
        if len(self.specs) > 1:
            names = ", ".join(shown(spec["name"]) for spec in self.specs[:20])
            message = f"{what}, and the model has the inputs {names}: send {instead}"
            raise InvalidRequest("wrong_inputs", message, field="inputs")
        return self.specs[0]

    def rows(self, array: np.ndarray, spec: Spec) -> dict[str, np.ndarray]:
        """The model's array from one of numbers; raises as `parse_inputs`."""
        if array.ndim != len(spec["shape"]):
            fit(array, spec)  # says what is wrong with the shape
        check_row_counts({spec["name"]: len(array)}, self.max_rows)
        return {spec["name"]: np.require(fit(array, spec), requirements=("C", "A"))}

    def images(self, files: Sequence[bytes]) -> dict[str, np.ndarray]:
        """The rows of the single input from image files; raises as `decoded`."""
        spec = self.only("image files are rows of one input", "JSON with rows by name")
        check_row_counts({spec["name"]: len(files)}, self.max_rows)
        return {spec["name"]: decoded(files, spec, self.preprocessing)}
