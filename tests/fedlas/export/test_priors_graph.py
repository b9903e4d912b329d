"""Class priors in a file: an input that may be left out, whatever the upload's version and names are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from fedlas.calibrators import Identity, TemperatureScaling
from fedlas.deployment import ClassPriors, Deployment
from fedlas.export.graph import export_onnx
from fedlas.importers import load_onnx
from tests.helpers.gaussian_classes import TRUTH, network, world

Array = NDArray[np.float32]

NAMES = list("abcd")
SHARES, RARE = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.001, 0.001, 0.001, 0.997])
ROWS: Array = world()["x"][:50]


def run(file: Path, **inputs: Array) -> Array:
    """The probabilities that ONNX Runtime computes."""
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    (probs,) = session.run(["probabilities"], inputs)
    return np.asarray(probs)


def shifted(probs: Array, factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """By Bayes' theorem."""
    weighted = probs.astype(np.float64) * factors
    return np.asarray(weighted / weighted.sum(1, keepdims=True))


@pytest.mark.parametrize("version", [3, 4, 9])
@pytest.mark.parametrize("name", ["x", "class_priors"])
def test_priors_are_an_input_with_a_default(tmp_path: Path, version: int, name: str) -> None:
    """At the shares the file answers bit by bit as without priors; a taken name is numbered, and old files are new."""
    model = onnx.load_from_string(network(TRUTH))
    model.ir_version = version
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    onnx.save(model, tmp_path / "upload.onnx")
    classifier = load_onnx(tmp_path / "upload.onnx")
    calibrator, thresholds = TemperatureScaling(2.0), np.full(4, 0.25)
    given: dict[str, Any] = {"calibrator": calibrator, "class_names": NAMES, "verify_with": [ROWS]}
    export_onnx(classifier, tmp_path / "plain.onnx", **given)
    plain = run(tmp_path / "plain.onnx", **{name: ROWS})
    for default in (SHARES, RARE):
        deployment = Deployment(ClassPriors(SHARES, default), thresholds)
        export_onnx(classifier, tmp_path / "priors.onnx", deployment=deployment, **given)
        assert onnx.load(tmp_path / "priors.onnx").ir_version == max(version, 4)
        session = ort.InferenceSession(tmp_path / "priors.onnx", providers=["CPUExecutionProvider"])
        assert [one.name for one in session.get_inputs()] == [name]
        (priors,) = session.get_overridable_initializers()
        assert (priors.name == "class_priors", priors.shape) == (name == "x", [4])
        found = run(tmp_path / "priors.onnx", **{name: ROWS})
        if default is SHARES:
            np.testing.assert_array_equal(found, plain)
        np.testing.assert_allclose(found, shifted(plain, default / SHARES), atol=1e-6)
        other = run(tmp_path / "priors.onnx", **{name: ROWS, priors.name: np.full(4, 0.25, np.float32)})
        np.testing.assert_allclose(other, shifted(plain, 0.25 / SHARES), atol=1e-6)


def test_a_file_with_priors_can_be_opened_again(tmp_path: Path) -> None:
    """Its default is part of the network then, and the new priors take the old ones' place."""
    (tmp_path / "0.onnx").write_bytes(network(TRUTH))
    given: dict[str, Any] = {"calibrator": Identity(), "class_names": NAMES, "verify_with": [ROWS]}
    first = Deployment(ClassPriors(SHARES, RARE), np.full(4, 0.25))
    export_onnx(load_onnx(tmp_path / "0.onnx"), tmp_path / "1.onnx", deployment=first, **given)
    second = Deployment(ClassPriors(RARE, SHARES), np.full(4, 0.25))
    again = load_onnx(tmp_path / "1.onnx", output="probabilities")
    export_onnx(again, tmp_path / "2.onnx", deployment=second, **given)
    once = run(tmp_path / "1.onnx", x=ROWS)
    np.testing.assert_allclose(run(tmp_path / "2.onnx", x=ROWS), shifted(once, SHARES / RARE), atol=1e-5)
    there = run(tmp_path / "2.onnx", x=ROWS, class_priors=RARE.astype(np.float32))
    np.testing.assert_allclose(there, once, atol=1e-5)
