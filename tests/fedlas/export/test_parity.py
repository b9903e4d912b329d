"""Parity is judged by what ONNX Runtime itself differs by, and by what a difference means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from fedlas.calibrators import Identity, TemperatureScaling, softmax
from fedlas.contract.report import Parity, RuntimeRounding
from fedlas.errors import ExportError, UnsupportedModel
from fedlas.export.graph import build_model, write_graph
from fedlas.export.parity import open_in_double, prove
from fedlas.importers import GraphClassifier, load_onnx
from fedlas.importers.onnx.graph import Array
from fedlas.importers.onnx.loading import network_outputs
from fedlas.importers.onnx.runtime import predict_file
from tests.helpers import cancelling_variance
from tests.helpers.networks import Cnn, export, images
from tests.helpers.refusals import refusal

NAMES = ["a", "b", "c"]


def cancelling(folder: Path, *, confidence: float = 3.0) -> GraphClassifier:
    """The network whose variance cancels."""
    (folder / "model.onnx").write_bytes(cancelling_variance.network(confidence=confidence))
    return load_onnx(folder / "model.onnx")


def exact(x: Array, *, confidence: float) -> Array:
    """The logits in float64, by numpy."""
    x = x.astype(np.float64)
    y = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12)
    head = confidence * 0.1 * cancelling_variance._PATTERNS.reshape(3, -1).T
    return y.reshape(len(x), -1) @ head.astype(np.float32).astype(np.float64)


def test_what_rounding_explains_is_written_and_told(tmp_path: Path) -> None:
    """A variance that cancels makes ONNX Runtime and PyTorch differ; the proof says by how much, and what it means."""
    classifier = cancelling(tmp_path)
    x, targets = cancelling_variance.rows(200, spread=0.02)
    out = tmp_path / "out.onnx"
    parity = (
        write_graph(classifier, calibrator=TemperatureScaling(2.0), class_names=NAMES, verify_with=[x], targets=targets)
        .save(out)
        .parity
    )
    assert parity is not None
    assert parity.rounding is not None
    written = predict_file(out, [x])["probabilities"].astype(float)
    judged = softmax(network_outputs(classifier, [x])[0] / 2)
    error = np.abs(written - judged)
    assert parity.max_probability_error == pytest.approx(error.max(), rel=1e-6)
    assert error.max() > 1e-5
    truth = softmax(exact(x, confidence=3.0) / 2)
    worst = np.argsort(-error.max(1))[:32]
    assert parity.rounding.double_precision == pytest.approx(np.abs(written - truth)[worst].max(), rel=1e-2)
    assert parity.limit == pytest.approx(10 * parity.rounding.double_precision)
    assert parity.decisions_changed == (written.argmax(1) != judged.argmax(1)).sum()
    hit = np.arange(200), targets
    assert parity.nll_change == pytest.approx(-np.log(written[hit]).mean() + np.log(judged[hit]).mean(), abs=1e-9)
    squares = [((p - np.eye(3)[targets]) ** 2).sum(1).mean() for p in (written, judged)]
    assert parity.brier_change == pytest.approx(squares[0] - squares[1], abs=1e-9)


def test_a_wrong_file_is_no_rounding(tmp_path: Path) -> None:
    """Weights that are off by more than rounding are refused, although this network rounds visibly."""
    classifier = cancelling(tmp_path)
    x, targets = cancelling_variance.rows(200, spread=0.02)
    model, graph, _ = build_model(classifier, Identity())
    (head,) = (name for name, value in graph.constants.items() if value.shape == (512, 3))
    graph.constants[head] = graph.constants[head] * np.float32(1.05)
    content = graph.to_model(model.graph.output).SerializeToString()
    with refusal(ExportError, "parity", "differs from the network by"):
        prove(content, graph, classifier, Identity(), None, [x], targets=targets, tolerance=1e-5)


def test_rounding_that_means_something_is_refused(tmp_path: Path) -> None:
    """Where rounding moves decisions and scores the file is another model, although ONNX Runtime differs as much."""
    classifier = cancelling(tmp_path)
    x, targets = cancelling_variance.rows(200, spread=0.0005)
    with refusal(ExportError, "parity", "in mean NLL"):
        write_graph(classifier, calibrator=Identity(), class_names=NAMES, verify_with=[x], targets=targets)


@pytest.mark.parametrize(
    ("changed", "passed"),
    [
        ({}, True),
        ({"max_probability_error": 1e-2}, False),
        ({"decisions_changed": 3}, False),
        ({"nll_change": -2e-3}, False),
        ({"brier_change": 2e-3}, False),
        ({"nll_change": None, "brier_change": None}, True),
        ({"rounding": None, "nll_change": 1.0}, True),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_difference_must_be_small_and_mean_nothing(changed: dict[str, object], passed: bool) -> None:
    """Error, decisions, NLL and Brier each have a limit; what needs no explanation is not asked what it means."""
    given = {
        "num_rows": 256,
        "max_probability_error": 5e-4,
        "limit": 6e-3,
        "decisions_changed": 2,
        "nll_change": 1e-4,
        "brier_change": -1e-4,
        "rounding": RuntimeRounding(num_rows=32, unoptimised=1e-6, double_precision=6e-4),
    }
    assert Parity(**{**given, **changed}).passed is passed  # type: ignore[arg-type]


class Mixed(nn.Module):
    """Convolutions, which ONNX Runtime has in float32 alone, between sums and products, which it has in both."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Cnn()
        self.scale = nn.Parameter(torch.full((5,), 1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        picked: torch.Tensor = self.network(x * (x.sum((1, 2, 3), keepdim=True) > 0).float())
        return picked * self.scale


def test_double_precision_is_pytorchs(tmp_path: Path) -> None:
    """The graph in double precision gives what PyTorch gives in float64, but for its convolutions' rounding."""
    torch.manual_seed(0)
    network = Mixed().eval()
    classifier = load_onnx(export(network, images(2), tmp_path / "m.onnx"))
    graph = classifier.graph()
    session = open_in_double(graph, [classifier.logits_name])
    (x,) = images(6)
    (found,) = session.run(None, {graph.input_names[0]: x.numpy()})
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, network.double()(x.double()).detach(), atol=1e-6)


@pytest.mark.parametrize("spread", [0.02, 0.0005])
def test_double_precision_rounds_nothing(spread: float, tmp_path: Path) -> None:
    """Where every operator has a kernel in float64, cancelling variances come out as numpy has them."""
    classifier = cancelling(tmp_path)
    x, _ = cancelling_variance.rows(50, spread=spread)
    (found,) = open_in_double(classifier.graph(), [classifier.logits_name]).run(None, {"x": x})
    np.testing.assert_allclose(found, exact(x, confidence=3.0), rtol=1e-6, atol=1e-6)


def test_graphs_without_a_form_in_double_precision(tmp_path: Path) -> None:
    """Branches, and weights that would not fit, have none."""
    graph = cancelling(tmp_path).graph()
    branch = helper.make_graph(
        [helper.make_node("Identity", ["scores"], ["out"])],
        "b",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    graph.constants["yes"] = np.array(True)
    graph.nodes.append(helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch))
    with pytest.raises(UnsupportedModel, match="branches and loops"):
        open_in_double(graph, ["chosen"])
