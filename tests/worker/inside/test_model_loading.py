"""A job's dataset as the model has seen it: what an earlier job trained on is not unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.registry.documents import FittedOn
from tests.helpers.gaussian_classes import OVERCONFIDENT, network, world
from tests.helpers.plan_orders import an_order
from worker.documents import PlanOrder
from worker.inside.model_loading import open_job
from worker.inside.work_function import Files


def test_shares_of_a_record_are_those_of_the_splits(tmp_path: Path) -> None:
    """What a record holds of its options reaches the reader of the file."""
    rows = {name: array for name, array in world().items() if name != "split"}
    shares = {"calibration": 0.4, "guarantee": 0.1, "test": 0.5}
    order, files = an_order(tmp_path, rows, network(OVERCONFIDENT), dataset_options={"split_shares": shares})
    _, dataset, _ = open_job(order, files, tmp_path)
    assert dataset.profile()["splits"] == {"train": 0, "calibration": 360, "guarantee": 90, "test": 450}


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlanOrder, Files]:
    """The order of a job on rows that the model has not seen, as their sender says."""
    rows = {name: array for name, array in world().items() if name != "split"}
    folder = tmp_path_factory.mktemp("ordered")
    return an_order(folder, rows, network(OVERCONFIDENT), dataset_options={"seen_by_model": "no"})


@pytest.mark.parametrize(
    ("dataset_id", "sha256", "trained", "seen"),
    [
        ("ds_1", "1", ["train"], "train_split"),
        ("ds_1", "1", [], "no"),
        ("ds_0", "1", ["train"], "unknown"),
        ("ds_0", "0", ["train"], "no"),
    ],
)
def test_rows_that_an_earlier_job_trained_on_are_seen(
    ordered: tuple[PlanOrder, Files], tmp_path: Path, dataset_id: str, sha256: str, trained: list[str], seen: str
) -> None:
    """Of the same dataset the train split was seen, of the same file split otherwise any row may have been; only that.

    A calibrator's rows do not count: it has a few numbers, and the network is as it was.
    """
    order, files = ordered
    earlier = FittedOn(dataset_id=dataset_id, sha256=sha256, splits=["train", "calibration"], network=trained)
    profile = order.model.profile.model_copy(update={"trained_on": [earlier]})
    order = order.model_copy(update={"model": order.model.model_copy(update={"profile": profile})})
    _, dataset, _ = open_job(order, files, tmp_path)
    assert dataset.seen_by_model == seen
    assert any("an earlier job trained this model" in warning for warning in dataset.warnings) is (seen != "no")
