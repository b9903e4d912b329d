"""A calibrated file of ours can be opened and calibrated again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.export.graph import write_graph
from fedlas.importers import load_onnx
from fedlas.importers.onnx.runtime import predict_file
from tests.helpers.uploads import to_onnx


def test_calibrators_compose(tmp_path: Path) -> None:
    """Temperatures 2, 3 and 3 written one after the other act as one temperature of 18; names never collide."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    path = tmp_path / "uploaded.onnx"
    path.write_bytes(to_onnx(network, (torch.from_numpy(rows[:2]),)))
    output = None
    for step, temperature in enumerate((2.0, 3.0, 3.0)):
        classifier = load_onnx(path, output=output)
        path, output = tmp_path / f"{step}.onnx", "probabilities"
        calibrator = TemperatureScaling(temperature)
        write_graph(classifier, calibrator=calibrator, class_names=list("abcd"), verify_with=[rows]).save(path)
    with torch.no_grad():
        expected = softmax(network(torch.from_numpy(rows)).numpy() / 18)
    np.testing.assert_allclose(predict_file(path, [rows])["probabilities"], expected, atol=1e-6)
