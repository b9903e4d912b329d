"""`python tests/deploy/digits.py FOLDER`: a model and rows that it has not seen, by onnx and scikit-learn alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

#: Rows that the model learns from; all others are sent.
TRAINED = 500


def main(folder: Path) -> None:
    """Write model.onnx and rows.csv."""
    inputs, labels = load_digits(return_X_y=True)
    known = LogisticRegression(C=1000, max_iter=2000).fit(inputs[:TRAINED], labels[:TRAINED])
    weights = [numpy_helper.from_array(known.coef_.T.astype(np.float32), "w")]
    weights.append(numpy_helper.from_array(known.intercept_.astype(np.float32), "b"))
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["z"]), helper.make_node("Softmax", ["z"], ["p"], axis=1)]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inputs.shape[1]])
    told = helper.make_tensor_value_info("p", TensorProto.FLOAT, ["rows", 10])
    graph = helper.make_graph(nodes, "digits", [given], [told], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "model.onnx")
    names = ",".join([*(f"pixel_{number}" for number in range(inputs.shape[1])), "label"])
    rows = np.column_stack([inputs, labels])[TRAINED:]
    np.savetxt(folder / "rows.csv", rows, fmt="%d", delimiter=",", header=names, comments="")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
