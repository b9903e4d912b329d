"""Averaging: the pool of the uploaded model and the refits, whose weights have the highest out-of-fold likelihood.

Its members are the uploaded network with a temperature, the same with the pool of calibrators, and the refits with
theirs. Against the better of the two it gains little on tables (study: .0002 to .002 NLL), more where out-of-fold
scores undersell a refit (MiniLM: .04), and it was never seen to be clearly worse than its members.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from fedlas.calibrators import Calibrator, Identity, Pool
from fedlas.classifier import Classifier
from fedlas.data.dataset import Array
from fedlas.race.ensemble import Ensemble, cost_factor, shared_bodies
from fedlas.race.hyperparameters import Settings
from fedlas.race.results import CandidateResult, Doubles, Finalist
from fedlas.race.scoring import CrossFitted
from fedlas.race.selection import CalibratorSelector
from fedlas.training.loader import tensor

#: Rows on which multiplications are counted.
_COUNTED_ROWS = 2


def average(
    uploaded: Finalist,
    temperature: CrossFitted,
    refits: Sequence[Finalist],
    selector: CalibratorSelector,
    inputs: Sequence[Array],
) -> Finalist | None:
    """The pool as one network, scored like every candidate; None where it comes down to one network.

    Args:
        uploaded: the post-hoc finalist.
        temperature: of the uploaded network.
        inputs: calibration rows, on whose first ones multiplications are counted.
    """
    began = time.perf_counter()
    own = [temperature, CrossFitted(uploaded.calibrator, uploaded.held_out)]
    members = [*(one.held_out for one in own), *(one.held_out for one in refits)]
    weights, held_out = selector.mixed(members)
    mine, theirs = weights[: len(own)], weights[len(own) :]
    chosen: list[tuple[Finalist, Calibrator, float]] = []
    if mine.sum() > 0:
        chosen.append((uploaded, _pooled([one.calibrator for one in own], mine), float(mine.sum())))
    chosen += [(one, one.calibrator, float(weight)) for one, weight in zip(refits, theirs, strict=True) if weight > 0]
    if len(chosen) < 2:
        return None
    networks = [one.classifier for one, *_ in chosen]
    shares_body = all(one.result.scope == "head" for one in refits)
    network = Ensemble(networks, [c for _, c, _ in chosen], [w for *_, w in chosen], shares_body=shares_body)
    cost = _cost(networks, inputs)
    settings: Settings = {
        "members": [one.result.name for one, *_ in chosen],
        "weights": [round(weight, 4) for *_, weight in chosen],
        "cost_factor": round(cost, 3),
    }
    scope, seconds = "head" if shares_body else "all", time.perf_counter() - began
    result = CandidateResult(f"average of {len(chosen)} networks", "average", settings, scope, "finished", "", seconds)
    result = selector.scored(result, CrossFitted(Identity(), held_out))
    return Finalist(network, Identity(), result, held_out, chosen[0][0].features, cost)


def _pooled(calibrators: Sequence[Calibrator], weights: Doubles) -> Calibrator:
    """The calibrators with a weight, as one."""
    kept = [one for one, weight in zip(calibrators, weights, strict=True) if weight > 0]
    return kept[0] if len(kept) == 1 else Pool(kept, weights[weights > 0] / weights.sum())


def _cost(networks: Sequence[Classifier], inputs: Sequence[Array]) -> float:
    few = [tensor(np.asarray(array[:_COUNTED_ROWS])) for array in inputs]
    shared = shared_bodies(networks)  # a network that is moved gets buffers of its own
    return cost_factor([one.to("cpu").eval() for one in networks], few, shared=shared)
