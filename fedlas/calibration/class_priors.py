"""Class priors of a calibration: those that were ordered, and what is served at them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedlas.calibration.evaluation import CalibrationOptions, Floats
from fedlas.calibrators import Identity, softmax
from fedlas.data import Dataset
from fedlas.deployment import Deployment, priors_of
from fedlas.errors import Mismatch
from fedlas.race.results import CandidateResult, Finalist


def ordered_priors(dataset: Dataset, options: CalibrationOptions) -> Floats | None:
    """The priors (K,) that the answers are to be for; raises Mismatch `class_priors_mismatch`."""
    if options.class_priors is None:
        return None
    try:
        return priors_of(options.class_priors, dataset.class_names)
    except ValueError as error:
        raise Mismatch("class_priors_mismatch", str(error)) from error


def uploaded_at_priors(post_hoc: Finalist, base_logits: ArrayLike, options: CalibrationOptions) -> Finalist | None:
    """The network of `post_hoc` without its calibrator, where priors were ordered for its answers; else None."""
    if options.class_priors is None:
        return None
    uploaded = CandidateResult("uploaded", "post_hoc", {}, "none", "finished", calibrator=Identity())
    logits = np.asarray(base_logits, np.float64)
    return Finalist(post_hoc.classifier, Identity(), uploaded, logits, post_hoc.features)


def deployment_of(
    held_out: ArrayLike, base_logits: ArrayLike, dataset: Dataset, options: CalibrationOptions
) -> Deployment:
    """Class priors and thresholds of what is served, fitted on calibration rows.

    Args:
        held_out: calibrated logits (N, K) out of fold.
        base_logits: (N, K) of the uploaded model.
    """
    return Deployment.fit(
        softmax(held_out),
        base_logits,
        dataset.targets[dataset.rows("calibration")],
        weights=dataset.weights_of("calibration"),
        priors=ordered_priors(dataset, options),
    )
