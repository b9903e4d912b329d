"""The calibrators against simulated truth, SciPy, scikit-learn and ONNX Runtime."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from sklearn.linear_model import LogisticRegression

from fedlas import metrics
from fedlas.calibrators import (
    CALIBRATORS,
    AffineScaling,
    BetaScaling,
    Calibrator,
    Identity,
    IsotonicScaling,
    MatrixScaling,
    MixtureScaling,
    OneVsRestScaling,
    QuadraticScaling,
    SplineScaling,
    TemperatureScaling,
    VectorScaling,
    from_parameters,
    softmax,
)
from tests.helpers.drawn_labels import drawn, nll, normal
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.written_calibrators import run_onnx


def test_a_fit_leaves_no_copy_of_the_logits_behind() -> None:
    """SciPy's root finder leaves a cycle: what it holds stays until the collector looks, after many copies."""
    logits, targets = drawn_logits(20_000, 20)
    TemperatureScaling().fit(logits, targets)
    gc.disable()
    tracemalloc.start()
    try:
        TemperatureScaling().fit(logits, targets)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert kept < logits.nbytes / 10


def binary(num_rows: int, slope: float, intercept: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = 2 * rng.normal(size=num_rows)
    targets = (rng.random(num_rows) < 1 / (1 + np.exp(-(slope * x + intercept)))).astype(np.int64)
    return np.stack([-0.5 * x + 3, 0.5 * x + 3], axis=1), targets


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_temperature_is_the_minimum_that_scipy_finds(num_classes: int) -> None:
    """The fitted temperature minimises the NLL, to eight digits."""
    logits, targets = drawn_logits(1000, num_classes, seed=num_classes)
    best = minimize_scalar(
        lambda u: nll(4 * logits / np.exp(u), targets), bounds=(-3, 4), method="bounded", options={"xatol": 1e-9}
    )
    assert TemperatureScaling().fit(4 * logits, targets).temperature == pytest.approx(np.exp(best.x), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_temperature_of_perfectly_separated_rows_is_finite(scale: float) -> None:
    """Where every row is right the NLL has no minimum, yet the confidences stay short of certainty."""
    logits = scale * drawn_logits(1000, 5)[0]
    fitted = TemperatureScaling().fit(logits, logits.argmax(axis=1))
    assert 0.01 <= fitted.temperature <= 100
    assert nll(fitted(logits), logits.argmax(axis=1)) < 1.61
    if scale == 1.0:
        assert softmax(fitted(logits)).max(axis=1).min() < 0.9


def test_temperature_stays_in_its_bounds() -> None:
    """Logits that are always wrong ask for infinitely little confidence and get T = 100,000."""
    logits, _ = drawn_logits(200, 5)
    assert TemperatureScaling().fit(logits, logits.argmin(axis=1)).temperature == pytest.approx(1e5)


def test_temperature_of_equal_logits_is_one() -> None:
    """Rows that say nothing give no reason to change anything."""
    assert TemperatureScaling().fit(np.zeros((10, 3)), np.arange(10) % 3).temperature == 1.0


def test_weights_are_repetitions() -> None:
    """A row of weight 3 counts like three equal rows."""
    logits, targets = drawn_logits(300, 4)
    weights = np.arange(300) % 3 + 1
    weighted = TemperatureScaling().fit(logits, targets, weights=weights)
    repeated = TemperatureScaling().fit(np.repeat(logits, weights, axis=0), np.repeat(targets, weights))
    assert weighted.temperature == pytest.approx(repeated.temperature, rel=1e-9)


def test_affine_is_logistic_regression() -> None:
    """On many rows slope and intercept are those of an unpenalised logistic regression."""
    logits, targets = binary(5000, 0.7, 0.5)
    referee = LogisticRegression(C=np.inf, tol=1e-10).fit((logits[:, 1] - logits[:, 0])[:, None], targets)
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
    assert fitted.slope == 1e-5
    assert softmax(fitted(logits))[:, 1].mean() == pytest.approx(targets.mean(), abs=1e-3)


TWO_CLASSES = [
    Identity(),
    TemperatureScaling(2.5),
    AffineScaling(0.6, -0.8),
    BetaScaling(0.4, 1.7, 0.3, 1.2),
    QuadraticScaling([-2.0, 3.0], [0.5, 1.5], -1.8),
    SplineScaling([-2.0, 0.0, 1.0], [0.5, 1.5, 0.1], -1.8),
    VectorScaling([0.5, 1.5], [0.2, -0.4], 1.3, 0.01),
    MatrixScaling([[0.8, -0.1], [0.3, 0.6]], [0.2, -0.4], 1.3, 0.01),
    IsotonicScaling([-2.0, 0.0, 1.0], [-1.0, 0.5, 0.6], temperature=1.5, binary=True),
]


@pytest.mark.parametrize("opset", [7, 13, 17, 22])
@pytest.mark.parametrize("calibrator", TWO_CLASSES, ids=lambda c: c.name)
def test_onnx_computes_the_same(calibrator: Calibrator, opset: int) -> None:
    """The appended nodes give the calibrated logits in ONNX Runtime, in every opset, also for no rows."""
    logits = drawn_logits(50, 2)[0].astype(np.float32)
    np.testing.assert_allclose(run_onnx(calibrator, logits, opset=opset), calibrator(logits), rtol=1e-5, atol=2e-6)
    assert run_onnx(calibrator, logits[:0], opset=opset).shape == (0, 2)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("name", CALIBRATORS)
def test_onnx_computes_what_was_fitted(name: str, num_classes: int) -> None:
    """After a fit on overconfident, biased logits the nodes agree as exactly as float32 can, far tails too."""
    if CALIBRATORS[name].two_classes_only and num_classes > 2:
        with pytest.raises(ValueError, match="needs logits"):
            CALIBRATORS[name]().fit(np.zeros((2, num_classes)), np.arange(2))
        return
    logits, targets = drawn_logits(1000, num_classes)
    logits = (4 * logits + np.arange(num_classes)).astype(np.float32)
    fitted = CALIBRATORS[name]().fit(logits, targets)
    for rows in (logits, 30 * logits, np.zeros_like(logits)):
        # Neighbouring float32 numbers as large as these are so far apart; a probability moves by at most a quarter.
        spacing = np.finfo(np.float32).eps * max(np.abs(rows).max(), np.abs(fitted(rows)).max())
        np.testing.assert_allclose(softmax(run_onnx(fitted, rows)), softmax(fitted(rows)), atol=1e-6 + spacing)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_far_logits_get_finite_answers(name: str) -> None:
    """Logits of ±10,000, far from all that were fitted, give finite numbers, in the file's float32 too."""
    logits, targets = drawn_logits(300, 2 if CALIBRATORS[name].two_classes_only else 5)
    fitted = CALIBRATORS[name]().fit(logits, targets)
    far = 1e4 * np.sign(logits)
    assert np.isfinite(run_onnx(fitted, far)).all()
    np.testing.assert_allclose(softmax(run_onnx(fitted, far)), softmax(fitted(far)), atol=1e-5)


HARD = {
    "separated": lambda k: (5 * np.eye(k)[np.arange(200) % k], np.arange(200) % k),
    "huge": lambda k: (1e4 * np.sign(drawn_logits(200, k)[0]), drawn_logits(200, k)[1]),
    "constant": lambda k: (np.full((200, k), 3.0), drawn_logits(200, k)[1]),
    "one class": lambda k: (drawn_logits(200, k)[0], np.full(200, k - 1)),
    "a class missing": lambda k: (drawn_logits(200, k)[0], np.maximum(drawn_logits(200, k)[1], 1)),
    "three rows": lambda k: (drawn_logits(3, k)[0], np.array([0, 1, 0])),
    "one row": lambda k: (drawn_logits(1, k)[0], np.array([0])),
    "all wrong": lambda k: (drawn_logits(200, k)[0], drawn_logits(200, k)[0].argmin(axis=1)),
}


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("rows", HARD)
@pytest.mark.parametrize("name", CALIBRATORS)
def test_hard_rows_give_finite_probabilities_that_are_no_worse(name: str, rows: str, num_classes: int) -> None:
    """Separated, huge, constant, one-sided or hopeless rows: all is finite and the NLL no higher than before."""
    if CALIBRATORS[name].two_classes_only and num_classes > 2:
        with pytest.raises(ValueError, match="needs logits"):
            CALIBRATORS[name]().fit(np.zeros((2, num_classes)), np.arange(2))
        return
    logits, targets = HARD[rows](num_classes)
    fitted = CALIBRATORS[name]().fit(logits, targets)
    calibrated = fitted(logits)
    assert np.isfinite(calibrated).all()
    assert np.isfinite(list(_numbers(fitted.parameters()))).all()
    own = -np.log(np.maximum(softmax(calibrated)[np.arange(len(targets)), targets], 1e-300)).mean()
    before = -np.log(np.maximum(softmax(logits)[np.arange(len(targets)), targets], 1e-300)).mean()
    assert own <= max(before, 0.05) + 1e-6 or rows == "one row"


def _numbers(value: object) -> Iterator[float]:
    """All numbers of nested dicts and lists."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    else:
        assert isinstance(value, int | float | bool)
        yield float(value)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_only_those_that_say_so_can_move_a_decision(name: str) -> None:
    """Where `keeps_order` holds no row changes its class; the others do change some on biased logits."""
    num_classes = 2 if CALIBRATORS[name].two_classes_only else 5
    logits, targets = drawn_logits(2000, num_classes)
    logits = logits + 1.5 * np.arange(num_classes)
    fitted = CALIBRATORS[name]().fit(logits, targets)
    assert (fitted(logits).argmax(axis=1) != logits.argmax(axis=1)).any() != fitted.keeps_order


@pytest.mark.parametrize("name", CALIBRATORS)
def test_rows_of_weight_zero_and_the_scale_of_weights_do_not_count(name: str) -> None:
    """Rows without weight are as if they were not there, and only the proportions of weights count."""
    logits, targets = drawn_logits(400, 2)
    upside_down = np.where(np.arange(400) < 200, targets, 1 - targets)
    weights = np.where(np.arange(400) < 200, 3.0, 0.0)
    kind = CALIBRATORS[name]
    with_zeros = kind().fit(logits, upside_down, weights=weights)(logits)
    np.testing.assert_allclose(with_zeros, kind().fit(logits, targets, weights=weights / 7)(logits), atol=1e-5)
    np.testing.assert_allclose(with_zeros, kind().fit(logits[:200], targets[:200])(logits), atol=1e-5)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_parameters_survive_json(name: str) -> None:
    """Fitted parameters come back from JSON text digit by digit, for many classes where there may be many."""
    logits, targets = drawn_logits(300, 2 if CALIBRATORS[name].two_classes_only else 4)
    fitted = CALIBRATORS[name]().fit(logits, targets)
    restored = from_parameters(name, json.loads(json.dumps(fitted.parameters(), allow_nan=False)))
    np.testing.assert_array_equal(restored(logits), fitted(logits))
    assert restored.keeps_order == fitted.keeps_order


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
    """An argument that cannot be fitted is a ValueError that names it."""
    with pytest.raises(ValueError, match=word):
        TemperatureScaling().fit(logits, targets, weights=weights)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: IsotonicScaling([0.0, 0.0], [0.0, 1.0]),
        lambda: IsotonicScaling([0.0, 1.0], [1.0, 0.0]),
        lambda: IsotonicScaling(np.arange(40.0), np.arange(40.0)),
        lambda: IsotonicScaling([0.0], [0.0], slope=0.0),
        lambda: IsotonicScaling([0.0], [np.nan]),
        lambda: IsotonicScaling(temperature=-1.0),
        lambda: IsotonicScaling(binary=True)(np.zeros((2, 3))),
        lambda: VectorScaling([1.0, 1.0], [0.0]),
        lambda: VectorScaling([1.0, np.nan], [0.0, 0.0]),
        lambda: MatrixScaling(np.eye(3), np.zeros(2)),
        lambda: MatrixScaling(np.full((2, 2), np.inf), np.zeros(2)),
        lambda: VectorScaling([1.0, 1.0], [0.0, 0.0])(np.zeros((2, 3))),
        lambda: MatrixScaling(np.eye(2), np.zeros(2))(np.zeros((2, 3))),
        lambda: OneVsRestScaling(heights=[0.0]),
        lambda: OneVsRestScaling(slopes=[[1.0, 1.0]]),
        lambda: OneVsRestScaling(knots=[[0.0, 0.0], [0.0, 1.0]]),
        lambda: OneVsRestScaling(np.eye(3), np.zeros(3)),
        lambda: SplineScaling([0.0, 0.0], [1.0, 1.0]),
        lambda: SplineScaling([0.0, 1.0], [1.0, 0.0]),
        lambda: SplineScaling([0.0], [1.0]),
        lambda: SplineScaling([0.0, 1.0], [1.0, np.nan]),
        lambda: SplineScaling([0.0, 1.0], [1.0, 1.0], np.inf),
        lambda: QuadraticScaling([0.0, 1.0, 2.0], [1.0, 1.0, 1.0]),
        lambda: SplineScaling()(np.zeros((3, 3))),
        lambda: TemperatureScaling(0.0),
        lambda: AffineScaling(-1.0, 0.0),
        lambda: from_parameters("histogram", {}),
        lambda: from_parameters("temperature", {}),
        lambda: from_parameters("affine", {"slope": 2.0}),
        lambda: from_parameters("temperature", {"temperature": 2.0, "share": 0.1}),
        lambda: AffineScaling().fit(np.zeros((3, 3)), np.arange(3)),
        lambda: BetaScaling().fit(np.zeros((3, 3)), np.arange(3)),
        lambda: BetaScaling(a=0.0),
    ],
)
def test_wrong_parameters_are_refused(make: Callable[[], object]) -> None:
    """Knots that do not rise, slopes that do not climb, shapes that do not fit, unknown names, a class too many."""
    with pytest.raises(ValueError, match=r"must|needs"):
        make()


def rows(number: int, *, wrong: float, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits of five classes, twice too large, and labels of which a share is replaced by any class."""
    rng = np.random.default_rng(seed)
    truth = 3 * rng.normal(size=(number, 5))
    targets = (softmax(truth).cumsum(axis=1) > rng.random((number, 1))).argmax(axis=1)
    return 2 * truth, np.where(rng.random(number) < wrong, rng.integers(0, 5, number), targets)


def test_the_fit_is_the_optimum_of_both_numbers() -> None:
    """Temperature and share are those that SciPy finds by minimising the NLL over both."""
    logits, targets = rows(2000, wrong=0.1)

    def nll(v: NDArray[np.float64]) -> float:
        share = 1 / (1 + np.exp(-v[1]))
        mixture = (1 - share) * softmax(logits / np.exp(v[0])) + share / 5
        return float(-np.log(mixture[np.arange(2000), targets]).mean())

    best = minimize(nll, [0.0, -3.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    fitted = MixtureScaling().fit(logits, targets)
    np.testing.assert_allclose(fitted.temperature, np.exp(best.x[0]), rtol=1e-4)
    np.testing.assert_allclose(fitted.share, 1 / (1 + np.exp(-best.x[1])), rtol=1e-3)
    assert abs(fitted.share - 0.1) < 0.03, "a tenth of the labels was drawn at random"
    assert abs(fitted.temperature - 2.0) < 0.2, "the logits are twice too large"


def test_wrong_labels_do_not_cool_the_rest() -> None:
    """With 10 % wrong labels a temperature is far too high; the mixture's ECE on new rows is less than half of its."""
    fitting, new = rows(2000, wrong=0.1), rows(20_000, wrong=0.1, seed=1)
    found = {}
    for kind in (TemperatureScaling, MixtureScaling):
        probs = softmax(kind().fit(*fitting)(new[0]))
        found[kind.name] = (metrics.ece(probs, new[1]), metrics.nll(probs, new[1]))
    assert found["mixture"][0] < 0.5 * found["temperature"][0]
    assert found["mixture"][1] < found["temperature"][1] - 0.02


def test_without_doubt_it_is_the_temperature() -> None:
    """Where logits are only scaled, the share is next to nothing and the answers are those of a temperature."""
    logits, targets = rows(5000, wrong=0.0)
    plain, mixture = TemperatureScaling().fit(logits, targets), MixtureScaling().fit(logits, targets)
    assert mixture.share < 0.01
    np.testing.assert_allclose(softmax(mixture(logits)), softmax(plain(logits)), atol=0.02)


def test_no_decision_moves() -> None:
    """The most probable class stays, also for logits of ±10,000, and no answer is exactly 0."""
    logits, targets = rows(500, wrong=0.3)
    fitted = MixtureScaling().fit(logits, targets)
    for scores in (logits, 1e4 * np.sign(logits) + logits):
        probs = softmax(fitted(scores))
        np.testing.assert_array_equal(probs.argmax(axis=1), scores.argmax(axis=1))
        assert probs.min() >= fitted.share / 5 * 0.999


@pytest.mark.parametrize(
    ("kind", "simpler", "num_rows", "num_classes", "bound"),
    [
        *((IsotonicScaling, TemperatureScaling, 150, k, 0.03) for k in (2, 6)),
        *((VectorScaling, TemperatureScaling, *few, 0.06) for few in ((60, 10), (200, 20), (300, 100))),
        *((MatrixScaling, TemperatureScaling, *few, 0.06) for few in ((60, 10), (200, 20), (300, 100))),
        (OneVsRestScaling, MatrixScaling, 150, 5, 0.03),
    ],
)
def test_with_few_rows_it_is_about_the_simpler_one(
    kind: type[Calibrator], simpler: type[Calibrator], num_rows: int, num_classes: int, bound: float
) -> None:
    """Where a temperature is the truth and rows are few, new rows lose next to no NLL to it, mean of 5 draws."""
    losses = []
    for seed in range(5):
        old, new = (normal(n, num_classes, seed=seed + s) for n, s in ((num_rows, 0), (4000, 100)))
        targets, new_targets = drawn(old, seed), drawn(new, seed + 100)
        rich, plain = (one().fit(2 * old, targets)(2 * new) for one in (kind, simpler))
        losses.append(nll(rich, new_targets) - nll(plain, new_targets))
    assert np.mean(losses) < bound
