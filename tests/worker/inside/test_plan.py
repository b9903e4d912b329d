"""A dry run tells what a job would find out, from the rows themselves, and trains nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlas.errors import BadDataset, BaselineMismatch
from tests.helpers.gaussian_classes import CENTRES, OVERCONFIDENT, SPLITS, network, world
from tests.helpers.plan_orders import Json, an_order
from worker.inside.calibration import calibrate
from worker.inside.plan import plan


def planned(folder: Path, rows: Json, model: bytes, **options: Any) -> Json:
    return plan(*an_order(folder, rows, model, **options), folder, lambda _: None).plan.stored()


MODEL = network((CENTRES.T, np.zeros(4)), (np.eye(4), OVERCONFIDENT[1]))


def test_a_plan_tells_what_is_there(tmp_path: Path) -> None:
    """Feature layer, labels, splits and accuracy are those of the files; the estimate holds the recipe's candidates."""
    rows = world()
    names = ["ant", "bee", "cat", "dog"]
    found = planned(
        tmp_path,
        {**rows, "class_names": np.array(names)},
        MODEL,
        model_options={"class_names": names},
        budget={"minutes": 3.0, "candidates": 5},
    )
    assert found["features"] == {"layer": "r1", "dim": 4}
    assert found["trains"] is found["trainable"] is True
    assert found["splits"] == SPLITS
    assert found["labels"]["matched_by"] == "name"
    assert [c["name"] for c in found["labels"]["classes"]] == names
    assert [c["rows"] for c in found["labels"]["classes"]] == np.bincount(rows["label"]).tolist()
    assert found["leakage"] == {"seen_by_model": "train_split", "shared_rows": {}}
    assert found["estimate"]["candidates"] == 5
    assert 0 < found["estimate"]["minutes"] <= 3.0
    assert found["estimate"]["memory_bytes"] > 10**8
    chosen = rows["split"] == "calibration"
    logits = np.maximum(rows["x"][chosen] @ CENTRES.T, 0) + OVERCONFIDENT[1]
    assert found["uploaded"]["accuracy"] == pytest.approx((logits.argmax(1) == rows["label"][chosen]).mean())


def test_a_plan_counts_the_whole_job(tmp_path: Path) -> None:
    """Reading, calibrators, judging and writing are minutes too, and what fits the budget stays within it."""
    whole = planned(tmp_path / "a", world(), MODEL, budget={"minutes": 10.0, "candidates": 2})
    alone = planned(tmp_path / "b", world(), MODEL, method="post_hoc")
    assert (alone["trains"], alone["estimate"]["candidates"]) == (False, 0)
    assert 1 / 60 < alone["estimate"]["minutes"] == alone["estimate"]["minutes_in_full"]
    assert alone["estimate"]["minutes"] < whole["estimate"]["minutes"] <= 10.0


def test_a_budget_without_time_trains_nothing(tmp_path: Path) -> None:
    """Where reading and judging take all of it no candidate runs; the plan says so, and what the job takes anyway."""
    found = planned(tmp_path, world(), MODEL, budget={"minutes": 0.01, "candidates": 5})
    assert (found["trains"], found["estimate"]["candidates"]) == (False, 0)
    assert found["estimate"]["minutes_in_full"] >= found["estimate"]["minutes"] > 0.01
    (warning,) = [one for one in found["warnings"] if one["code"] == "budget"]
    assert "nothing would be trained" in warning["message"].lower()


def test_more_test_rows_detect_less(tmp_path: Path) -> None:
    """The detectable gain is a positive number that shrinks when the test split grows, at the same spread."""
    rows = world()
    few = planned(tmp_path / "few", rows, MODEL)["detectable_effect"]
    again = np.flatnonzero(rows["split"] == "test")
    more = {name: np.concatenate([array, *[array[again]] * 8]) for name, array in rows.items()}
    many = planned(tmp_path / "many", more, MODEL)["detectable_effect"]
    assert many["test_rows"] == 9 * few["test_rows"]
    assert 0 < many["gain"] < few["gain"] / 2
    assert many["temperature_would_gain"] == pytest.approx(few["temperature_would_gain"])


def test_earlier_looks_make_effects_harder_to_detect(tmp_path: Path) -> None:
    """The plan reckons with the level that the next look at these test rows may spend, not with a fresh one."""
    order, files = an_order(tmp_path, world(), MODEL)
    effects = [
        plan(order.model_copy(update={"looks_before": looks}), files, tmp_path, lambda _: None).plan.detectable_effect
        for looks in (0, 5)
    ]
    gains = [effect.gain for effect in effects if effect is not None]
    assert gains[1] > 1.2 * gains[0]


def test_leaking_rows_are_counted(tmp_path: Path) -> None:
    """Test rows that lie in the train split too are found by their content."""
    rows = world()
    test, train = (np.flatnonzero(rows["split"] == name) for name in ("test", "train"))
    rows["x"][test[:7]] = rows["x"][train[:7]]
    assert planned(tmp_path, rows, MODEL)["leakage"]["shared_rows"]["test"] == {"train": 7}


def test_an_unknown_provenance_trains_and_judges_nothing(tmp_path: Path) -> None:
    """Where nothing could be judged, the plan says so instead of promising a training."""
    found = planned(tmp_path, {name: array for name, array in world().items() if name != "split"}, MODEL)
    assert found["trains"] is False
    assert found["detectable_effect"] is None
    assert found["estimate"]["candidates"] == 0
    assert any("unknown" in warning["message"] for warning in found["warnings"])


def test_what_stops_a_job_stops_its_plan(tmp_path: Path) -> None:
    """A wrong label order and a split that is too small are reported by the dry run, in the words of the job."""
    rows = world()
    order, files = an_order(tmp_path / "a", {**rows, "label": 3 - rows["label"]}, MODEL, expected_accuracy=0.8)
    with pytest.raises(BaselineMismatch) as planned_error:
        plan(order, files, tmp_path / "a", lambda _: None)
    with pytest.raises(BaselineMismatch) as job_error:
        calibrate(order, files, tmp_path / "a", lambda _: None)
    assert planned_error.value.message == job_error.value.message
    few = rows["split"].copy()
    few[few == "calibration"] = "guarantee"
    few[:3] = "calibration"
    with pytest.raises(BadDataset, match="'calibration' has 3 rows"):
        planned(tmp_path / "b", {**rows, "split": few}, MODEL)
