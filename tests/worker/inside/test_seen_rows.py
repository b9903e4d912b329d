"""The file of seen rows that a job leaves beside a network that it has trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedlas.data.duplicates import SeenRows
from tests.helpers.plan_orders import an_order
from tests.helpers.uploads import digits, digits_model
from worker.documents import JobResult
from worker.inside.calibration import calibrate

KEY = bytes(16)
COUNTS = {"train": 650, "calibration": 200, "test": 547}
#: A network of which an earlier job has seen these.
BEFORE = np.random.default_rng(0).random((30, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[JobResult, Path]:
    """A job that trains, on fresh digits, what an earlier job has trained before."""
    folder = tmp_path_factory.mktemp("job")
    rows, targets, splits = digits()
    new = splits != "train"
    order, files = an_order(
        folder,
        {"x": rows[new], "label": targets[new], "split": np.repeat(list(COUNTS), list(COUNTS.values()))},
        digits_model(),
        dataset_options={"seen_by_model": "no"},
        hyperparameters={"batch_size": 16, "learning_rate": 0.1, "epochs": 4},
        budget={"minutes": 1, "candidates": 2},
    )
    SeenRows.of({"x": BEFORE}, key=KEY).save(folder / "before.npz")
    result = calibrate(order, {**files, "seen_rows": folder / "before.npz"}, folder, lambda _: None)
    assert result.verdict == "trained"
    return result, folder


def test_all_rows_that_trained_the_network_are_left(trained: tuple[JobResult, Path]) -> None:
    """Train and calibration rows of this job and the rows of earlier ones, and none that promises or judges."""
    result, folder = trained
    assert result.seen_rows is not None
    assert result.files()["seen_rows"] == result.seen_rows
    seen = SeenRows.load(folder / result.seen_rows, key=KEY)
    rows, _, splits = digits()
    mine = rows[splits != "train"]
    assert seen.contains({"x": BEFORE}).all()
    number = COUNTS["train"] + COUNTS["calibration"]
    assert seen.contains({"x": mine[:number]}).all()
    assert not seen.contains({"x": mine[number:]}).any()
    assert len(seen.digests) == len(BEFORE) + number


def test_the_record_says_which_splits_trained_the_network(trained: tuple[JobResult, Path]) -> None:
    """`trained_on` names the calibration rows among those of the network."""
    calibrated = trained[0].calibrated
    assert calibrated is not None
    found = calibrated.trained_on[-1]
    assert (found.splits, found.network) == (["train", "calibration"], ["train", "calibration"])
