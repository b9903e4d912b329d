"""A wrong order of labels ends a job before it trains, shows in its plan, and is only let through where it is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from fedlas.contract.events import WarningEvent
from fedlas.contract.options import WarningCode
from fedlas.errors import BaselineMismatch, PreconditionFailed
from tests.helpers.classical_models import save
from tests.helpers.gaussian_classes import TRUTH, network, world
from tests.helpers.plan_orders import Json, an_order
from worker.documents import ChildEvent
from worker.inside.calibration import calibrate
from worker.inside.plan import plan

MODEL = network(TRUTH)
NAMES = np.array(["ant", "bee", "cow", "dog"])


def with_names(**changed: Any) -> Json:
    """Rows whose labels are names."""
    rows = world()
    return {**rows, "label": NAMES[rows["label"]], **changed}


def told(events: list[ChildEvent]) -> list[str]:
    return [event.event.data.code for event in events if isinstance(event.event, WarningEvent)]


@pytest.mark.parametrize("named", [True, False])
def test_names_in_another_order_end_a_job(tmp_path: Path, named: bool) -> None:
    """The plan and the job find a wrong order of classes, whether the model names them or not."""
    order = [1, 2, 3, 0]
    names = NAMES[order].tolist()
    model = MODEL if named else network((TRUTH[0][:, order], TRUTH[1][order]))
    order_, files = an_order(tmp_path, with_names(), model, model_options={"class_names": names} if named else {})
    events: list[ChildEvent] = []
    found = plan(order_, files, tmp_path, events.append).plan.stored()
    assert (found["warnings"][0]["code"], found["warnings"][0]["severity"]) == ("label_order", "error")
    assert found["fails_with"] == "label_order"
    assert found["labels"]["matched_by"] == ("name" if named else "index")
    assert found["warnings"][0]["evidence"]["likely_order"] == (NAMES.tolist() if named else names)
    assert told(events) == ["label_order"]
    with pytest.raises(PreconditionFailed, match="accept_warnings") as caught:
        calibrate(order_, files, tmp_path, events.append)
    assert caught.value.code == "label_order"
    assert told(events) == ["label_order"] * 2


def test_integer_labels_are_matched_by_index_whatever_the_names(tmp_path: Path) -> None:
    """A model with names and labels that are numbers."""
    order, files = an_order(tmp_path, world(), MODEL, model_options={"class_names": NAMES.tolist()})
    found = plan(order, files, tmp_path, lambda _: None).plan.stored()
    assert found["labels"]["matched_by"] == "index"
    assert [warning["code"] for warning in found["warnings"]] == []


@pytest.mark.parametrize("expected", [0.6, 1.0])
def test_expected_accuracy_is_missed_either_way(tmp_path: Path, expected: float) -> None:
    """A model that is better than expected fails too, and the message has the interval of what was measured."""
    order, files = an_order(tmp_path, world(), MODEL, expected_accuracy=expected)
    with pytest.raises(BaselineMismatch, match=r"95 % interval: 8\d\.\d to 9\d\.\d %"):
        plan(order, files, tmp_path, lambda _: None)


def test_every_error_can_be_accepted() -> None:
    """The codes of checks that may end a job are those that an order can name."""
    inputs = {"input_scale", "input_channels", "input_columns", "input_tokens", "constant_answers", "constant_column"}
    assert {
        "label_order",
        "labels_from_one",
        "softmax_twice",
        "few_rows",
        "training_rows",
        "worse_than_frequencies",
    } | inputs == set(get_args(WarningCode))


def test_copies_of_train_rows_do_not_judge(tmp_path: Path) -> None:
    """100 test rows are copied from the train rows: the plan and the report say so, and the others judge."""
    rows = world()
    train, test = (np.flatnonzero(rows["split"] == split) for split in ("train", "test"))
    copied = test[:100]
    rows["x"][copied] = rows["x"][train[: len(copied)]]
    order, files = an_order(tmp_path, rows, MODEL, method="temperature")
    (warning,) = plan(order, files, tmp_path, lambda _: None).plan.stored()["warnings"]
    assert (warning["code"], warning["evidence"]["copies"]) == ("copied_rows", {"test": len(copied)})
    calibrate(order, files, tmp_path, lambda _: None)
    assert json.loads((tmp_path / "report.json").read_text())["num_test_rows"] == len(test) - len(copied)


def test_numbers_in_a_classical_file_are_no_names(tmp_path: Path) -> None:
    """A forest of encoded labels takes the names of the dataset in their order, which an encoder sorts, too."""
    rows = world()
    forest = RandomForestClassifier(10, random_state=0).fit(rows["x"], rows["label"])
    order, files = an_order(tmp_path, with_names(), save(forest, rows["x"], tmp_path / "forest.onnx").read_bytes())
    found = plan(order, files, tmp_path, lambda _: None).plan.stored()
    assert [one["name"] for one in found["labels"]["classes"]] == NAMES.tolist()
    assert (found["labels"]["matched_by"], found["warnings"]) == ("index", [])
