"""The post-hoc finalists: the uploaded network with its calibrators."""

from __future__ import annotations

import time

from fedlas.classifier import Classifier
from fedlas.race.context import RaceContext
from fedlas.race.results import Finalist, Floats
from fedlas.race.scoring import CrossFitted
from fedlas.race.selection import CalibratorSelector


def uploaded(
    classifier: Classifier, selector: CalibratorSelector, temperature: CrossFitted, logits: Floats, features: Floats
) -> tuple[CrossFitted, dict[str, Finalist]]:
    """The pool of calibrators on the uploaded network, and its finalists by name."""
    began = time.perf_counter()
    pool = selector.calibrate(logits, features)
    found = selector.finalists(pool, temperature)
    seconds = time.perf_counter() - began
    return pool, {
        name: Finalist(classifier, one.calibrator, selector.post_hoc(one, seconds=seconds), one.held_out, features)
        for name, one in found.items()
    }


def seconds_of_pools(context: RaceContext, number: int) -> float:
    """What the pools of so many trials will take, which read no features: as long as that of the uploaded network."""
    return number * context.record.decided("seconds of a pool", lambda: context.selector.pool_seconds)
