"""Caveats: what is doubtful is said, and nothing else."""

from __future__ import annotations

import numpy as np

from fedlas.calibrators import softmax
from fedlas.gate.non_inferiority import JudgedRows
from fedlas.metrics import Estimate
from fedlas.report import Evidence
from fedlas.report.caveats import caveats
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.reports import UNCHANGED, report


def test_too_easy_calibration_rows_are_noticed() -> None:
    """Nine points apart on 500 rows is more than chance; two points apart on 100 rows is not."""

    def warned(before: float, now: float, rows: int) -> bool:
        targets = np.arange(rows) % 2
        evidence = Evidence(
            gate=UNCHANGED,
            uploaded=(),
            temperature=(),
            calibrated=(),
            targets=targets,
            calibration_accuracy=before,
            num_calibration_rows=rows,
        )
        estimates = {"accuracy": Estimate(now, now, now), "nll": Estimate(0.5, 0.5, 0.5)}
        found = caveats(evidence, JudgedRows(targets, None), ["a", "b"], dict(estimates))
        return any("more than chance explains" in sentence for sentence in found)

    assert warned(0.99, 0.90, 500)
    assert not warned(0.92, 0.90, 100)
    assert not warned(0.80, 0.90, 500)


def test_honest_provenance_is_not_nagged() -> None:
    """Where it is unknown what the model saw, the verdict says so already; 0.9 accuracy is not suspicious."""
    targets = np.arange(300) % 3
    assert not report(np.eye(3)[targets], targets, seen_by_model="unknown").as_dict()["warnings"]
    logits, labels = drawn_logits(300, 3)
    assert not report(softmax(logits), labels, seen_by_model="no").as_dict()["warnings"]
