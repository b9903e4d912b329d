"""An imported network as ONNX Runtime computes it gives the file's own answers, to the last bit."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from fedlas.calibrators import Identity
from fedlas.export.graph import write_graph
from fedlas.importers import load_onnx
from fedlas.importers.onnx.loading import network_outputs
from fedlas.importers.onnx.runtime import predict_file
from fedlas.importers.onnx.train.classifier import RuntimeComputedClassifier
from tests.helpers import cancelling_variance
from tests.helpers.networks import Cnn, export, images, trained_looking


def test_it_answers_as_its_file(tmp_path: Path) -> None:
    """Where rounding shows, logits and features are those of the written file bit by bit, and PyTorch's are not."""
    (tmp_path / "m.onnx").write_bytes(cancelling_variance.network())
    imported = load_onnx(tmp_path / "m.onnx")
    x, _ = cancelling_variance.rows(20, spread=0.001)
    found = RuntimeComputedClassifier(imported)
    written = write_graph(found, calibrator=Identity(), class_names=list("abc"), verify_with=[x], tolerance=1e-6)
    logits, features = network_outputs(found, [x])
    out = predict_file(written.content, [x])
    assert np.array_equal(out["logits"], logits.astype(np.float32))
    assert np.array_equal(out["features"], features.astype(np.float32))
    assert np.abs(network_outputs(imported, [x])[0] - logits).max() > 1e-3


def test_it_is_the_same_network(tmp_path: Path) -> None:
    """Weights as they are now, the same features, nothing to train, and a copy is itself."""
    imported = load_onnx(export(trained_looking(Cnn()), images(2), tmp_path / "m.onnx"))
    with torch.no_grad():
        for parameter in imported.parameters():
            parameter.mul_(1.1)
    found = RuntimeComputedClassifier(imported)
    (x,) = images(5)
    for mine, theirs in zip(found(x), imported.eval()(x), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    assert (found.trainable, found.head_parameters(), copy.deepcopy(found)) == (False, [], found)
    assert (found.feature_dim, found.num_classes) == (imported.feature_dim, imported.num_classes)
    with pytest.raises(TypeError, match="no head"):
        found.head(torch.zeros(1, found.feature_dim))
