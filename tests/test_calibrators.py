"""The calibrators against simulated truth, SciPy, scikit-learn and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression

from fedlas.calibrators import (
    CALIBRATORS,
    AffineScaling,
    Calibrator,
    Identity,
    TemperatureScaling,
    from_parameters,
    softmax,
)


def simulated(num_rows: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels drawn from their own softmax, so that a temperature of 1 is the truth."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(num_rows, num_classes))
    targets = (softmax(logits).cumsum(axis=1) > rng.random((num_rows, 1))).argmax(axis=1)
    return logits, targets


def binary(num_rows: int, slope: float, intercept: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = 2 * rng.normal(size=num_rows)
    targets = (rng.random(num_rows) < 1 / (1 + np.exp(-(slope * x + intercept)))).astype(np.int64)
    return np.stack([-0.5 * x + 3, 0.5 * x + 3], axis=1), targets


def nll(logits: np.ndarray, targets: np.ndarray) -> float:
    return float(-np.log(softmax(logits)[np.arange(len(targets)), targets]).mean())


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0, 20.0])
def test_temperature_is_recovered(temperature: float) -> None:
    """Logits that are too large by a factor get that factor as their temperature."""
    logits, targets = simulated(20_000, 5)
    fitted = TemperatureScaling().fit(temperature * logits, targets)
    assert fitted.temperature == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_temperature_is_the_minimum_that_scipy_finds(num_classes: int) -> None:
    """The fitted temperature minimises the NLL, to eight digits."""
    logits, targets = simulated(1000, num_classes, seed=num_classes)
    best = minimize_scalar(
        lambda u: nll(4 * logits / np.exp(u), targets), bounds=(-3, 4), method="bounded", options={"xatol": 1e-9}
    )
    assert TemperatureScaling().fit(4 * logits, targets).temperature == pytest.approx(np.exp(best.x), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_temperature_of_perfectly_separated_rows_is_finite(scale: float) -> None:
    """Where every row is right the NLL has no minimum, yet the confidences stay short of certainty."""
    logits = scale * simulated(1000, 5)[0]
    fitted = TemperatureScaling().fit(logits, logits.argmax(axis=1))
    assert 0.01 <= fitted.temperature <= 100
    assert nll(fitted(logits), logits.argmax(axis=1)) < 1.61
    if scale == 1.0:
        assert softmax(fitted(logits)).max(axis=1).min() < 0.9


def test_temperature_stays_in_its_bounds() -> None:
    """Logits that are always wrong ask for infinitely little confidence and get T = 100."""
    logits, _ = simulated(200, 5)
    assert TemperatureScaling().fit(logits, logits.argmin(axis=1)).temperature == pytest.approx(100)


def test_temperature_of_equal_logits_is_one() -> None:
    """Rows that say nothing give no reason to change anything."""
    assert TemperatureScaling().fit(np.zeros((10, 3)), np.arange(10) % 3).temperature == 1.0


def test_weights_are_repetitions() -> None:
    """A row of weight 3 counts like three equal rows."""
    logits, targets = simulated(300, 4)
    weights = np.arange(300) % 3 + 1
    weighted = TemperatureScaling().fit(logits, targets, weights=weights)
    repeated = TemperatureScaling().fit(np.repeat(logits, weights, axis=0), np.repeat(targets, weights))
    assert weighted.temperature == pytest.approx(repeated.temperature, rel=1e-9)


def test_affine_is_recovered() -> None:
    """A wrong slope and a shifted base rate are both found."""
    logits, targets = binary(50_000, 0.4, -1.2)
    fitted = AffineScaling().fit(logits, targets)
    assert (fitted.slope, fitted.intercept) == pytest.approx((0.4, -1.2), abs=0.03)


def test_affine_is_logistic_regression() -> None:
    """On many rows slope and intercept are those of an unpenalised logistic regression."""
    logits, targets = binary(5000, 0.7, 0.5)
    x = (logits[:, 1] - logits[:, 0])[:, None]
    referee = LogisticRegression(C=np.inf, tol=1e-10).fit(x, targets)
    fitted = AffineScaling().fit(logits, targets)
    assert fitted.slope == pytest.approx(referee.coef_[0, 0], rel=3e-3)
    assert fitted.intercept == pytest.approx(referee.intercept_[0], rel=3e-3)


def test_affine_of_separated_rows_is_finite() -> None:
    """Perfect separation gives a steep line, not an infinite one."""
    logits, _ = binary(500, 1, 0)
    fitted = AffineScaling().fit(logits, logits.argmax(axis=1))
    assert 1 < fitted.slope <= 100
    assert abs(fitted.intercept) < 1


def test_affine_never_turns_the_order_round() -> None:
    """Against labels that fall with the log-odds the slope stays positive and the base rate is met."""
    logits, targets = binary(5000, -1.0, 1.0)
    fitted = AffineScaling().fit(logits, targets)
    assert fitted.slope == 0.01
    assert softmax(fitted(logits))[:, 1].mean() == pytest.approx(targets.mean(), abs=1e-3)


def test_affine_mends_what_a_temperature_cannot() -> None:
    """With a shifted base rate the affine calibrator has the lower NLL by far."""
    logits, targets = binary(5000, 1.0, 1.5)
    both = [kind().fit(logits, targets)(logits) for kind in (TemperatureScaling, AffineScaling)]
    assert nll(both[0], targets) - nll(both[1], targets) > 0.05


@pytest.mark.parametrize("opset", [7, 13, 17, 22])
@pytest.mark.parametrize(
    "calibrator", [Identity(), TemperatureScaling(2.5), AffineScaling(0.6, -0.8)], ids=lambda c: c.name
)
def test_onnx_computes_the_same(calibrator: Calibrator, opset: int) -> None:
    """The appended nodes give the calibrated logits in ONNX Runtime, in every opset."""
    nodes, constants = calibrator.to_onnx("logits", "calibrated")
    shape = ["N", 2]
    graph = helper.make_graph(
        nodes,
        "calibrator",
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("calibrated", TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = simulated(50, 2)[0].astype(np.float32)
    np.testing.assert_allclose(session.run(None, {"logits": logits})[0], calibrator(logits), rtol=1e-5, atol=1e-6)
    assert all(thing.name.startswith("fedlas_calibrator_") for thing in [*nodes, *constants])


@pytest.mark.parametrize("kind", CALIBRATORS.values(), ids=lambda kind: kind.name)
def test_parameters_restore_the_calibrator(kind: type[Calibrator]) -> None:
    """A calibrator comes back from its name and parameters, digit by digit."""
    logits, targets = binary(500, 0.5, 0.2)
    fitted = kind().fit(logits, targets)
    restored = from_parameters(fitted.name, fitted.parameters())
    np.testing.assert_array_equal(restored(logits), fitted(logits))


@pytest.mark.parametrize(
    ("logits", "targets", "weights", "word"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), None, "logits"),
        (np.zeros((3, 1)), np.zeros(3, int), None, "logits"),
        (np.array([[0.0, np.nan]]), np.array([0]), None, "finite"),
        (np.zeros((3, 2)), np.array([0, 1]), None, "targets"),
        (np.zeros((2, 2)), np.array([0.0, 1.0]), None, "integers"),
        (np.zeros((2, 2)), np.array([0, 2]), None, "0..1"),
        (np.zeros((2, 2)), np.array([0, 1]), np.array([0.0, 0.0]), "weights"),
    ],
)
def test_wrong_arguments_are_named(logits: np.ndarray, targets: np.ndarray, weights: object, word: str) -> None:
    """What cannot be fitted is a ValueError that names the argument."""
    with pytest.raises(ValueError, match=word):
        TemperatureScaling().fit(logits, targets, weights=weights)  # type: ignore[arg-type]


def test_wrong_parameters_are_refused() -> None:
    """A temperature or slope that is not positive, an unknown name, and three classes for two are refused."""
    for make in (
        lambda: TemperatureScaling(0.0),
        lambda: AffineScaling(-1.0, 0.0),
        lambda: from_parameters("isotonic", {}),
        lambda: AffineScaling().fit(np.zeros((3, 3)), np.arange(3)),
    ):
        with pytest.raises(ValueError, match=r"must|needs"):
            make()
