"""Averaging: the log-linear pool of the uploaded model and the refits, with weights of the highest likelihood.

Its members are the uploaded network with a temperature, the same with the pool of calibrators, and the refits with
theirs. Nothing is chosen among them: the weights, fitted on out-of-fold rows, are the choice. Docs: decision 0035.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from fedlas.calibrators import Identity, LogPool
from fedlas.data.dataset import Array
from fedlas.race.ensemble import Ensemble, cost_factor, shared_bodies
from fedlas.race.fold_course import Trial
from fedlas.race.hyperparameters import Settings
from fedlas.race.results import CandidateResult, Finalist
from fedlas.race.scoring import CrossFitted
from fedlas.race.selection import CalibratorSelector
from fedlas.training.loader import tensor

#: A network with a smaller weight is left out: it would cost an answer as much as the others and hardly move it.
MIN_NETWORK_WEIGHT = 0.05
#: Rows on which multiplications are counted.
_COUNTED_ROWS = 2


def with_weight(own: Sequence[CrossFitted], trials: Sequence[Trial], selector: CalibratorSelector) -> list[Trial]:
    """The trials to which a pool with the uploaded network's calibrators gives a weight: worth a refit.

    Their own loss decides nothing: a refit that lost to the upload by .005 out of fold, and had a weight of .46, was
    better by .04 on test rows (MiniLM).
    """
    if not trials:
        return []
    weights, _ = selector.log_mixed([*(one.held_out for one in own), *(one.calibrated.held_out for one in trials)])
    return [trial for trial, weight in zip(trials, weights[len(own) :], strict=True) if weight >= MIN_NETWORK_WEIGHT]


def average(
    uploaded: Finalist,
    own: Sequence[CrossFitted],
    refits: Sequence[Finalist],
    selector: CalibratorSelector,
    inputs: Sequence[Array],
) -> Finalist | None:
    """The pool as one network, scored like every candidate; None where it comes down to one network.

    Args:
        uploaded: the post-hoc finalist.
        own: the uploaded network's temperature and pool of calibrators.
        inputs: calibration rows, on whose first ones multiplications are counted.
    """
    began = time.perf_counter()
    if not refits:
        return None
    weights, held_out = selector.log_mixed([*(one.held_out for one in own), *(one.held_out for one in refits)])
    if weights[: len(own)].sum() < MIN_NETWORK_WEIGHT:
        own = ()
        weights, held_out = selector.log_mixed([one.held_out for one in refits])
    mine, theirs = weights[: len(own)], weights[len(own) :]
    chosen: list[tuple[Finalist, LogPool]] = []
    if own:
        kept = [one.calibrator for one, weight in zip(own, mine, strict=True) if weight > 0]
        chosen.append((uploaded, LogPool(kept, mine[mine > 0])))
    chosen += [
        (one, LogPool([one.calibrator], [weight])) for one, weight in zip(refits, theirs, strict=True) if weight > 0
    ]
    if len(chosen) < 2:
        return None
    networks = [one.classifier for one, _ in chosen]
    shares_body = all(one.result.scope == "head" for one in refits)
    network = Ensemble(networks, [pool for _, pool in chosen], shares_body=shares_body)
    few = [tensor(np.asarray(array[:_COUNTED_ROWS])) for array in inputs]
    shared = shared_bodies(networks)  # a network that is moved gets buffers of its own
    cost = cost_factor([one.to("cpu").eval() for one in networks], few, shared=shared)
    settings: Settings = {
        "members": [one.result.name for one, _ in chosen],
        "weights": [round(float(pool.weights.sum()), 4) for _, pool in chosen],
        "cost_factor": round(cost, 3),
    }
    scope, seconds = "head" if shares_body else "all", time.perf_counter() - began
    result = CandidateResult(f"average of {len(chosen)} networks", "average", settings, scope, "finished", "", seconds)
    result = selector.scored(result, CrossFitted(Identity(), held_out))
    return Finalist(network, Identity(), result, held_out, chosen[0][0].features, cost)
