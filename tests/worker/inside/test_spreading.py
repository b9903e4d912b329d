"""Trainings walk to other workers as documents, and come out as they went in."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest

from fedlas.importers.network_kind import NetworkKind
from fedlas.race.planned_training import PlannedTraining
from fedlas.race.recipe import make_candidates
from fedlas.race.rungs import Rung
from service.registry.contract import JobRequest
from worker.documents import TrainingOrder
from worker.inside.spreading import planned_training, training_order

#: What JSON has written without a point, as a client may.
GIVEN = {"learning_rate": 1, "weight_decay": 0, "beta": 4, "margin": 10, "epochs": 5}


@pytest.mark.parametrize("kind", get_args(NetworkKind))
@pytest.mark.parametrize("given", [{}, GIVEN], ids=["recipe", "given"])
def test_a_training_is_the_same_after_its_walk(kind: NetworkKind, given: dict[str, float]) -> None:
    """To the last digit and its notation: the entry of a training is known by how its numbers are written."""
    request = JobRequest(model_id="mdl_1", dataset_id="ds_1", method="auto", hyperparameters=given)  # type: ignore[arg-type]
    line = make_candidates("auto", request.hyperparameters.model_dump(), kind=kind, max_candidates=16)  # type: ignore[arg-type]
    for place, one in enumerate(line):
        rated = replace(one, scope="head" if place % 2 else "all", epochs=3, learning_rate=one.edge_share / 3)
        for fold, folds in ((place % 3, 3), (None, None)):
            planned = PlannedTraining(rated, place, len(line), fold, folds, 1.25, 0.1 + 0.2, 0.9)
            order = training_order(planned, Rung([planned, planned], 10.0, 5.0, 0.25, 0.75))
            walked = planned_training(TrainingOrder.model_validate_json(order.model_dump_json()))
            assert json.dumps(walked.as_dict()) == json.dumps(planned.as_dict())
            assert (order.job_share, order.spent_seconds, order.kept_seconds) == (0.25, 10.0, 5.0)
