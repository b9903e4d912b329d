"""Documents as inspections and jobs leave them, for records that neither made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.helpers.publishing import PROFILE

MODEL_PROFILE: dict[str, Any] = {
    **PROFILE,
    "output": {"name": "logits", "kind": "logits"},
    "class_names_given": True,
    "trainable": True,
}
DATASET_PROFILE: dict[str, Any] = {
    "format": "npz",
    "num_samples": 5,
    "num_classes": 2,
    "class_names": ["a", "b"],
    "class_counts": {"a": 3, "b": 2},
    "inputs": PROFILE["inputs"],
    "roles": {"label": "y", "slices": ["site"]},
    "seen_by_model": "no",
    "splits": {"train": 2, "calibration": 1, "guarantee": 1, "test": 1},
}
SCORES_PROFILE: dict[str, Any] = {
    "num_samples": 5,
    "num_classes": 2,
    "class_names": ["a", "b"],
    "input": "logits",
    "priors_input": {"suffix": "3a00", "sha256": "0" * 64},
}

#: Documents of a run of `fedlas demo --short`: `models`, `dataset`, `events`, `report`, and the `plan` of a dry run.
DEMO: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "demo_documents.json").read_text())
