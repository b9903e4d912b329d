"""A classifier or pipeline of scikit-learn as an ONNX file with one matrix as input and probabilities as output."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fedlas.conversion import ModelFile
from fedlas.conversion.columns import class_name
from fedlas.conversion.proof import prove
from fedlas.errors import ConversionError
from fedlas.file_kinds import BOOSTERS

_INPUT = "x"
_OUTPUT = "probabilities"
#: The newest operators that the importer, ONNX Runtime and skl2onnx all know.
_OPSETS = {"": 18, "ai.onnx.ml": 3}
_SCORES_INSTEAD = "calibrate its probabilities instead: fedlas.calibrate(model, rows) does so, or POST /v1/calibrators"


def write_estimator(estimator: Any, folder: Path, *, example: Any, class_names: list[str] | None) -> ModelFile:
    """Write `model.onnx`; raises ConversionError as `fedlas.conversion.model_file` does."""
    classes = _classes(estimator)
    columns, rows = _columns(estimator, example)
    model = _converted(estimator, rows, columns)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(model, path)
    prove(path, {_INPUT: rows}, _probabilities(estimator, rows, columns), output=_OUTPUT)
    if class_names is not None and len(class_names) != len(classes):
        raise ConversionError(
            "class_names_mismatch", f"{len(class_names)} class names for {len(classes)} classes of the estimator"
        )
    options = {} if columns is None else {"columns": json.dumps(columns)}
    notes = [f"{type(estimator).__name__} was written as ONNX by skl2onnx, with probabilities as one tensor."]
    return ModelFile(path, class_names or classes, options, notes)


def _classes(estimator: Any) -> list[str]:
    if not hasattr(estimator, "predict_proba"):
        raise ConversionError(
            "no_probabilities",
            f"{type(estimator).__name__} has no predict_proba, so it gives no confidences (of an SVC: "
            "probability=True; a regressor is not calibrated here)",
        )
    if (classes := getattr(estimator, "classes_", None)) is None:
        raise ConversionError("not_fitted", f"{type(estimator).__name__} is not fitted: call fit first")
    if isinstance(classes, list):
        raise ConversionError("multilabel", "the estimator has several labels for each row; one class is needed")
    return [class_name(one) for one in classes]


def _columns(estimator: Any, example: Any) -> tuple[list[str] | None, NDArray[np.float32]]:
    """The names of the columns that the estimator was fitted with, and some rows (N, D) in their order."""
    named = getattr(estimator, "feature_names_in_", None)
    columns = None if named is None else [str(name) for name in named]
    if hasattr(example, "columns"):
        if columns is not None and set(columns) <= set(map(str, example.columns)):
            example = example[list(named)]  # type: ignore[arg-type]
        try:
            return columns, example.to_numpy(dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ConversionError(
                "text_column", f"the estimator reads columns that are no numbers ({error}): {_SCORES_INSTEAD}"
            ) from error
    if isinstance(example, dict) and len(example) == 1:
        (example,) = example.values()
    if example is None:
        if (width := getattr(estimator, "n_features_in_", None)) is None:
            raise ConversionError(
                "example_needed", f"{type(estimator).__name__} is written with an example of its rows"
            )
        return columns, np.random.default_rng(0).normal(size=(16, width)).astype(np.float32)
    rows = np.asarray(example)
    if rows.dtype.kind not in "biuf" or rows.ndim != 2:
        raise ConversionError(
            "bad_example", f"an estimator's rows are a matrix of numbers (N, D), not {rows.shape} of {rows.dtype}"
        )
    return columns, rows.astype(np.float32)


def _converted(estimator: Any, rows: NDArray[np.float32], columns: Sequence[str] | None) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of skl2onnx about versions
        from skl2onnx import to_onnx  # type: ignore[import-untyped, unused-ignore]
        from skl2onnx.common.data_types import FloatTensorType  # type: ignore[import-untyped, unused-ignore]

        types = [(_INPUT, FloatTensorType([None, rows.shape[1]]))]
        parts = [estimator, *(step for _, step in getattr(estimator, "steps", []))]
        if columns is not None and any(hasattr(part, "transformers_") for part in parts):  # which choose by name
            types = [(name, FloatTensorType([None, 1])) for name in columns]
        try:
            model = to_onnx(
                estimator, initial_types=types, options={id(estimator): {"zipmap": False}}, target_opset=_OPSETS
            )
        except Exception as error:  # converters raise whatever they run into
            name, reason = type(estimator).__name__, " ".join(str(error).split()).split(". ")[0]
            found = f"skl2onnx cannot write {name} ({type(error).__name__}: {reason}):"
            if booster := BOOSTERS.get(type(estimator).__module__.partition(".")[0]):
                found = f"{name}, m in what follows, is written by: {booster}; send that file, or"
            raise ConversionError("not_exportable", f"{found} {_SCORES_INSTEAD}") from error
    return _one_input(_probabilities_only(model), types)


def _probabilities_only(model: onnx.ModelProto) -> onnx.ModelProto:
    floats = [v for v in model.graph.output if v.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.DOUBLE)]
    if len(floats) != 1:
        raise ConversionError("no_probabilities", "skl2onnx wrote no single output of probabilities")
    kept = floats[0]
    del model.graph.output[:]
    model.graph.output.append(kept)
    if kept.name != _OUTPUT:
        model.graph.node.append(helper.make_node("Identity", [kept.name], [_OUTPUT]))
        model.graph.output[0].name = _OUTPUT
    return model


def _one_input(model: onnx.ModelProto, types: Sequence[tuple[str, Any]]) -> onnx.ModelProto:
    """The model with one matrix (N, D) in place of an input for each column."""
    if len(types) == 1 and types[0][0] == _INPUT:
        return model
    names = [value.name for value in model.graph.input]  # in our order; those that nothing reads stay
    nodes = [helper.make_node("Split", [_INPUT], names, axis=1, num_outputs=len(names)), *model.graph.node]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(nodes)
    model.graph.input.append(helper.make_tensor_value_info(_INPUT, TensorProto.FLOAT, [None, len(names)]))
    return model


def _probabilities(estimator: Any, rows: NDArray[np.float32], columns: Sequence[str] | None) -> NDArray[np.float64]:
    given: Any = rows
    if columns is not None:
        import pandas as pd  # type: ignore[import-untyped, unused-ignore]

        given = pd.DataFrame(rows, columns=list(columns))
    try:
        return np.asarray(estimator.predict_proba(given), np.float64)
    except Exception as error:  # whatever the estimator raises
        raise ConversionError(
            "bad_example", f"the estimator does not take the example {rows.shape}: {str(error).splitlines()[0][:200]}"
        ) from error
