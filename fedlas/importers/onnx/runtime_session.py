"""ONNX Runtime sessions of the library: of a file, and of the nodes of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import Array, Graph

#: ONNX Runtime's reason for a refusal belongs to the sender, but not in pages.
_LONGEST_REASON = 300


def open_session(model: str | Path | bytes, *, optimised: bool = True, threads: int = 0) -> ort.InferenceSession:
    """A quiet session on the CPU.

    Args:
        model: a path or a serialised model.
        optimised: False computes every node as it is written.
        threads: within one operator; 0 leaves the number to ONNX Runtime.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def predict_file(
    model: str | Path | bytes, inputs: Sequence[Array], *, batch_size: int = 256, optimised: bool = True
) -> dict[str, Array]:
    """Every output of a file by name, for one array of rows per input, computed in batches.

    Raises:
        ValueError: the number of arrays is not that of the model's inputs.
    """
    session = open_session(model, optimised=optimised)
    names = [value.name for value in session.get_inputs()]
    if len(names) != len(inputs):
        raise ValueError(f"the model has the inputs {names}, {len(inputs)} arrays were given")
    outputs = [value.name for value in session.get_outputs()]
    parts = []
    for start in range(0, max(len(inputs[0]), 1), batch_size):
        batch = {name: value[start : start + batch_size] for name, value in zip(names, inputs, strict=True)}
        parts.append(session.run(outputs, batch))
    return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(outputs)}


class GraphSession:
    """Some nodes of a graph in a session; never changed, so copies of a classifier share it."""

    def __init__(self, graph: Graph, outputs: Sequence[str], *, typed: bool = True) -> None:
        kind = TensorProto.FLOAT if typed else TensorProto.UNDEFINED
        shown = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
        for value in shown if not typed else ():
            value.ClearField("type")
        self.outputs = list(outputs)
        self.dtypes = {v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in graph.inputs}
        try:
            self.session = open_session(graph.to_model(shown).SerializeToString(), threads=torch.get_num_threads())
        except Exception as error:  # ONNX Runtime raises a class of its own for every kind of refusal
            raise not_runnable(error) from error

    def __deepcopy__(self, memo: dict[int, object]) -> GraphSession:
        return self

    def __call__(self, rows: Sequence[Array]) -> list[Array]:
        """The outputs for one array of rows per input; what is no tensor (maps, sequences) is as the runtime has it.

        Raises:
            UnsupportedModel: `not_runnable`.
        """
        given = {name: np.asarray(value, dtype) for (name, dtype), value in zip(self.dtypes.items(), rows, strict=True)}
        try:
            return list(self.session.run(self.outputs, given))
        except Exception as error:
            raise not_runnable(error) from error


def not_runnable(error: Exception) -> UnsupportedModel:
    """ONNX Runtime's refusal as an error of the library."""
    return UnsupportedModel("not_runnable", f"ONNX Runtime cannot run the model: {str(error)[:_LONGEST_REASON]}")
