"""Stacked graphs: they compute what NumPy does, in few nodes, and what calibrators share once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fedlas.calibrators import (
    CALIBRATORS,
    Calibrator,
    Identity,
    IsotonicScaling,
    LogPool,
    MixtureScaling,
    Pool,
    TemperatureScaling,
    Uniform,
    VectorScaling,
    softmax,
)
from fedlas.calibrators.feature_map import FeatureScaling
from fedlas.calibrators.linear import Compressed
from tests.helpers.written_calibrators import run_onnx


def drawn(num_classes: int, num_rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Logits twice too large, and targets; the last class has no rows."""
    rng = np.random.default_rng(num_classes)
    truth = rng.normal(size=(num_rows, num_classes))
    return 2 * truth, truth[:, : max(2, num_classes - 1)].argmax(axis=1)


def pools(num_classes: int) -> dict[str, Calibrator]:
    """Everything that a job may write for so many classes, and the corners of it."""
    logits, targets = drawn(num_classes)
    kinds = [kind for kind in CALIBRATORS.values() if num_classes == 2 or not kind.two_classes_only]
    kinds = [kind for kind in kinds if num_classes <= 100 or not kind.name.startswith(("structured_m", "one_"))]
    members: list[Calibrator] = [kind().fit(logits, targets) for kind in kinds]
    every, tempered = Pool(members, np.full(len(members), 1 / len(members))), TemperatureScaling(1.7)
    one_knot = IsotonicScaling((0.3,), (0.1,), slope=1.2, binary=num_classes == 2)
    return {
        "every kind": every,
        "post hoc": LogPool([tempered, every], [0.4, 0.7]),
        "compressed": Compressed(every),
        "one member": Pool([every], [1.0]),
        "equal members": LogPool([tempered, tempered], [0.5, 0.5]),
        "one knot": Pool([one_knot, Uniform()], [0.9, 0.1]),
        "even": Pool([Uniform()], [1.0]),
        "even and tempered": LogPool([Uniform(), tempered], [0.5, 0.5]),
        "nothing": Identity(),
    }


@pytest.mark.parametrize("name", list(pools(2)))
@pytest.mark.parametrize("num_classes", [2, 5, 30, 150])
def test_a_stacked_graph_gives_the_probabilities_of_numpy(num_classes: int, name: str) -> None:
    """In operators of opset 7, for classes without rows, and beyond the classes that are stacked.

    Apart they are by what float32 makes of it: at most 1.1e-6, and 3.3e-6 for 150 classes; written one after the other
    by as much.
    """
    calibrator, logits = pools(num_classes)[name], drawn(num_classes)[0].astype(np.float32)
    written = softmax(run_onnx(calibrator, logits))
    np.testing.assert_allclose(written, softmax(calibrator(logits)), atol=2e-6 if num_classes < 100 else 4e-6)


def test_a_row_of_many_numbers_is_read_by_a_stack() -> None:
    """Features join the logits, as a map of them and as a member of a pool."""
    logits, targets = drawn(4)
    features = np.random.default_rng(0).normal(size=(len(logits), 7)).astype(np.float32)
    mapped = FeatureScaling(share=0.1).fit(logits, targets, features=features)
    pool = Pool([mapped, VectorScaling().fit(logits, targets)], [0.5, 0.5])
    logits = logits.astype(np.float32)
    np.testing.assert_allclose(softmax(run_onnx(pool, logits, features)), softmax(pool(logits, features)), atol=1e-6)


def test_what_members_share_is_computed_once() -> None:
    """Ten temperatures are one product and one softmax; the pool of all kinds has fewer nodes than five a member."""
    ten = Pool([TemperatureScaling(1.0 + i) for i in range(10)], np.full(10, 0.1))
    counted = Counter(node.op_type for node in ten.to_onnx("logits", "calibrated", 3)[0])
    assert counted == {"MatMul": 1, "Reshape": 2, "Softmax": 1, "Gemm": 1, "Log": 1}
    mixed = Pool([MixtureScaling(2.0, 0.1, 3), MixtureScaling(2.0, 0.2, 3)], [0.5, 0.5])
    assert Counter(node.op_type for node in mixed.to_onnx("logits", "calibrated", 3)[0])["Softmax"] == 1
    every = pools(5)["every kind"]
    assert isinstance(every, Pool)
    assert len(every.to_onnx("logits", "calibrated", 5)[0]) < 5 * len(every.members)
