"""Inspection counts and measures what is served, and stores it as one document in the model's profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlas.contract.options import ModelOptions
from fedlas.errors import UnsupportedModel
from tests.helpers.networks import hand_made, node
from tests.helpers.sized_graphs import HOSTILE, MUST_PASS
from worker.documents import InspectModelOrder
from worker.inside.inspection import inspect_model


def inspected(upload: Path, folder: Path) -> dict[str, Any]:
    """The worker's own inspection."""
    folder.mkdir(exist_ok=True)
    order = InspectModelOrder(options=ModelOptions())
    return inspect_model(order, {"model": upload}, folder, lambda event: None).profile.stored()


def test_the_profile_has_a_cost(tmp_path: Path) -> None:
    """An ordinary network: all sizes from shapes, run up to 256 rows, plain JSON."""
    cost = inspected(MUST_PASS["mlp"](tmp_path), tmp_path / "out")["cost"]
    assert json.loads(json.dumps(cost)) == cost
    assert (cost["sizes"], cost["powers"]) == ("shapes", {})
    assert (cost["measured"]["rows"], cost["measured"]["length"]) == (256, 1)
    assert 0 < cost["measured"]["seconds"] < 1
    assert cost["row_bytes"] > cost["peak_row_bytes"] > 0


def test_rows_of_any_length_are_measured_long(tmp_path: Path) -> None:
    """Where rows have any length, longer ones are run than those that it was opened with, as far as they are taken."""
    cost = inspected(MUST_PASS["bert, free length"](tmp_path), tmp_path / "out")["cost"]
    assert cost["powers"] == {"input_ids.1": 2.0, "attention_mask.1": 2.0}
    assert cost["measured"]["length"] == 8  # its table of positions has 12


def test_a_size_from_values_is_rejected(tmp_path: Path) -> None:
    """The worker's inspection ends with the stable code."""
    with pytest.raises(UnsupportedModel) as caught:
        inspected(HOSTILE["ConstantOfShape"].write(tmp_path), tmp_path / "out")
    assert caught.value.code == "size_depends_on_values"


def test_a_model_that_refuses_values_is_measured_with_others(tmp_path: Path) -> None:
    """Tokens beyond a table are left out; the largest that it takes is not."""
    table = np.random.default_rng(0).normal(size=(200, 3))
    mean = node("ReduceMean", ["e"], "m", axes=[1], keepdims=0)
    nodes = [node("Gather", ["table", "x"], "e"), mean, node("Gemm", ["m", "w", "b"], "y")]
    path = hand_made(tmp_path, nodes, [5], {"table": table, "w": np.eye(3), "b": np.zeros(3)}, kind=7)
    assert inspected(path, tmp_path / "out")["cost"]["measured"]["rows"] == 256
