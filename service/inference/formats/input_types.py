"""The input types of a model: arrays and image files become its single input, which has no name in a body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.inference.excerpts import shown
from service.inference.images import decoded
from service.inference.profile import ServingProfile, TensorSpec
from service.inference.signature import check_row_counts, fit
from service.registry.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class InputTypes:
    """The inputs of a model, for readers of any format, and how many rows a request may have."""

    profile: ServingProfile
    max_rows: int

    def only(self, what: str, instead: str) -> TensorSpec:
        """The single input; InvalidRequest `wrong_inputs` where there are several, which `what` cannot hold."""
        if len(self.profile.inputs) > 1:
            names = ", ".join(shown(spec.name) for spec in self.profile.inputs[:20])
            message = f"{what}, and the model has the inputs {names}: send {instead}"
            raise InvalidRequest("wrong_inputs", message, field="inputs")
        return self.profile.inputs[0]

    def rows(self, array: np.ndarray, spec: TensorSpec) -> dict[str, np.ndarray]:
        """The model's array from one of numbers; raises as `parse_inputs`."""
        if array.ndim != len(spec.shape):
            fit(array, spec)  # says what is wrong with the shape
        check_row_counts({spec.name: len(array)}, self.max_rows)
        return {spec.name: np.require(fit(array, spec), requirements=("C", "A"))}

    def images(self, files: Sequence[bytes]) -> dict[str, np.ndarray]:
        """The rows of the single input from image files; raises as `decoded`."""
        spec = self.only("image files are rows of one input", "JSON with rows by name")
        check_row_counts({spec.name: len(files)}, self.max_rows)
        return {spec.name: decoded(files, spec, self.profile.preprocessing)}
