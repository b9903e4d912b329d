"""The post-hoc finalists: the uploaded network with its calibrators, the bar for everything that is trained."""

from __future__ import annotations

import time
from dataclasses import replace

from fedlas.classifier import Classifier
from fedlas.race.context import RaceContext
from fedlas.race.results import Finalist, Floats
from fedlas.race.selection import CalibratorSelector


def uploaded(classifier: Classifier, selector: CalibratorSelector, logits: Floats, features: Floats) -> Finalist:
    """The uploaded network with its best post-hoc calibrator: the bar for everything that is trained."""
    began = time.perf_counter()
    calibrated = selector.calibrate(logits, features)
    result = selector.post_hoc(calibrated, seconds=time.perf_counter() - began)
    return Finalist(classifier, calibrated.calibrator, result, calibrated.held_out, features)


def behind(post_hoc: Finalist, selector: CalibratorSelector, logits: Floats) -> dict[str, Finalist]:
    """The uploaded network with simpler calibrators, which stand behind a post-hoc finalist that moves labels."""
    if post_hoc.calibrator.keeps_order:
        return {}
    found = {"same_labels": selector.label_keeping(logits), "parametric": selector.parametric(logits)}
    return {
        name: replace(
            post_hoc,
            calibrator=one.calibrator,
            held_out=one.held_out,
            result=selector.post_hoc(one),
        )
        for name, one in found.items()
        if one is not None and one.calibrator is not post_hoc.calibrator
    }


def seconds_of_pools(context: RaceContext, number: int) -> float:
    """What the pools of so many trials will take, which read no features: as long as that of the uploaded network."""
    return number * context.record.decided("seconds of a pool", lambda: context.selector.pool_seconds)
