"""Nodes of a graph, open in ONNX Runtime; every session that the importer opens is opened here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import Graph


class Program:
    """Some nodes of a graph in an ONNX Runtime session; never changed, so copies of a classifier share it."""

    def __init__(self, graph: Graph, outputs: Sequence[str], *, typed: bool = True) -> None:
        kind = TensorProto.FLOAT if typed else TensorProto.UNDEFINED
        shown = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
        for value in shown if not typed else ():
            value.ClearField("type")
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        self.outputs = list(outputs)
        self.dtypes = {v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in graph.inputs}
        try:
            content = graph.to_model(shown).SerializeToString()
            self.session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a class of its own for every kind of refusal
            raise not_runnable(error) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self

    def __call__(self, rows: Sequence[NDArray[Any]]) -> list[Any]:
        """The outputs for one array of rows per input.

        Raises:
            UnsupportedModel: `not_runnable`.
        """
        given = {name: np.asarray(value, dtype) for (name, dtype), value in zip(self.dtypes.items(), rows, strict=True)}
        try:
            return list(self.session.run(self.outputs, given))
        except Exception as error:
            raise not_runnable(error) from error


def not_runnable(error: Exception) -> UnsupportedModel:
    """What ONNX Runtime said, in short."""
    return UnsupportedModel("not_runnable", f"ONNX Runtime cannot run the model: {str(error)[:300]}")
