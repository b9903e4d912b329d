"""The proof of a written model: ONNX Runtime answers an example as the object did that was written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from fedlas.errors import ConversionError

#: Names of a written module's outputs.
LOGITS = "scores"
FEATURES = "tapped"
#: Largest difference of scores, relative to the largest score: float32 in another order of sums explains a tenth of it.
_TOLERANCE = 1e-3


def prove(path: Path, inputs: Mapping[str, NDArray[Any]], expected: NDArray[Any], *, output: str = LOGITS) -> float:
    """The largest difference between the file's answers and those expected (N, K); raises ConversionError."""
    try:
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        answers = session.run([output], dict(inputs))[0]
    except Exception as error:  # ONNX Runtime has no common base of its errors
        raise ConversionError(
            "not_runnable", f"ONNX Runtime cannot run the written model: {str(error).splitlines()[0][:300]}"
        ) from error
    if answers.shape != expected.shape:
        raise ConversionError(
            "parity", f"the written model answers {answers.shape}, the object {expected.shape}, for the same rows"
        )
    difference = float(np.abs(answers - expected).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ConversionError(
            "parity",
            f"the written model differs from the object by up to {difference:.2g} on the example: something in it "
            "depends on chance, on Python values or on precision; calibrate its scores instead "
            "(`fedlas.LabelledScores`, `POST /v1/calibrators`)",
        )
    return difference


def tapped_tensor(path: Path) -> str:
    """The tensor that is tapped as features; it is no output of the file any more."""
    model = onnx.load(path)
    name = FEATURES
    producers = {made: node for node in model.graph.node for made in node.output}
    while name in producers and producers[name].op_type == "Identity":
        name = str(producers[name].input[0])
    kept = [value for value in model.graph.output if value.name != FEATURES]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, path)
    return name
