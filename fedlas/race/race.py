"""The race: candidates are trained on copies, calibrated and scored on calibration rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fedlas.calibrators import TemperatureScaling
from fedlas.classifier import Classifier
from fedlas.race.candidates import Candidate
from fedlas.race.context import RaceContext, Rows
from fedlas.race.ensembling import EnsembleBuilder, uploaded
from fedlas.race.journal import Journal
from fedlas.race.outputs import SplitOutputs
from fedlas.race.progress import OnCandidate, OnProgress, ProgressReporter
from fedlas.race.record import Record
from fedlas.race.results import FedLASDiagnostics, Finalist, Floats, RaceResult, Trial
from fedlas.race.scoring import accuracy, post_hoc_names
from fedlas.race.selection import CalibratorSelector, keeps_labels
from fedlas.race.successive_halving import SuccessiveHalving
from fedlas.race.time_budget import TimeBudget

#: So many of the best trials are calibrated once more, with their features.
_REFINED = 4
#: Share of the time that is kept for teaching one network what an ensemble of networks says.
_KEPT_FOR_STUDENT = 0.3
#: One calibrator that reads features may take this share of the budget, and so many seconds whatever the budget is.
_SHARE_FOR_FEATURES, _LEAST_FOR_FEATURES = 0.1, 2.0


def run_race(
    classifier: Classifier,
    *,
    train: Rows | None,
    calibration: Rows,
    candidates: Sequence[Candidate],
    budget_seconds: float,
    max_accuracy_drop: float = 0.005,
    max_cost_factor: float = 1.5,
    seed: int = 0,
    task: str = "multiclass",
    groups: ArrayLike | None = None,
    calibrators: Sequence[str] | None = None,
    combine: bool = True,
    on_progress: OnProgress | None = None,
    on_candidate: OnCandidate | None = None,
    journal: Journal | None = None,
    train_weights: NDArray[np.float64] | None = None,
    calibration_weights: NDArray[np.float64] | None = None,
    outputs: SplitOutputs | None = None,
    device: torch.device | str | None = None,
) -> RaceResult:
    """Name the post-hoc and the trained finalist on calibration rows; `classifier` itself is left as it is.

    The uploaded model with a temperature always finishes. All candidates run in full where the budget allows it, else
    by successive halving; heads are trained on features that are computed once. Candidates whose accuracy falls more
    than `max_accuracy_drop` under the uploaded model's are dropped. The best trials are averaged: as an ensemble
    where that costs at most `max_cost_factor` uploaded networks, else it teaches one network. The lowest cross-fitted
    NLL is the trained finalist if it beats the post-hoc one by more than a standard error.

    Args:
        train, calibration: `(inputs, targets)`, one array per model input; `train` None or empty trains nothing.
        task: `binary` needs two classes; two classes let calibrators with an intercept compete.
        groups: labels (N,) of groups of calibration rows that stay together in cross-fitting.
        calibrators: names that may compete, over what `task` says (for example only `temperature`; then no calibrator
            reads the features either).
        combine: whether trials are averaged.
        on_progress: called before every candidate and after every epoch; what it raises stops the race.
        on_candidate: called with everything that was trained or averaged, as soon as it is scored; not with what an
            earlier attempt has reported.
        journal: where decisions, finished candidates and the state of the running one are kept. A race that is killed
            and begun again with its journal trains on where it was and names the same finalists, bit by bit.
        train_weights: sampling weights (N,) of the train rows, by which they are drawn.
        calibration_weights: sampling weights (N,) of the calibration rows, in every fit and choice.
        outputs: the classifier's on the calibration rows, where they are at hand.
    """
    # What was begun with other settings or other numbers of rows is not gone on with.
    settings = {
        "candidates": [asdict(candidate) for candidate in candidates],
        "rows": [0 if train is None else len(train[1]), len(calibration[1])],
        "calibrators": None if calibrators is None else list(calibrators),
        "seed": seed,
        "budget_seconds": budget_seconds,
        "combine": combine,
        "max_accuracy_drop": max_accuracy_drop,
        "max_cost_factor": max_cost_factor,
    }
    record = Record(journal, settings)
    budget = TimeBudget(budget_seconds, record)
    if outputs is None:
        outputs = SplitOutputs(classifier, calibration[0], split="calibration", device=device)
    budget.note_speed(outputs)
    logits, targets = outputs.logits, calibration[1]
    selector = CalibratorSelector(
        targets,
        names=tuple(calibrators or post_hoc_names(logits.shape[1], len(targets), task)),
        reads_features=calibrators is None,
        groups=groups,
        weights=calibration_weights,
        seed=seed,
        base_accuracy=accuracy(logits, targets, calibration_weights),
        max_accuracy_drop=max_accuracy_drop,
        seconds=seconds_for_features(budget_seconds),
    )
    reporter = ProgressReporter(budget, record, on_progress, on_candidate)
    context = RaceContext(
        classifier, train, calibration, outputs, selector, budget, record, reporter, seed, device, train_weights
    )
    combine = combine and len(candidates) > 1
    return _run(context, candidates, combine=combine, max_cost_factor=max_cost_factor)


def seconds_for_features(budget_seconds: float) -> float:
    """How long one calibrator that reads features may take."""
    return max(_LEAST_FOR_FEATURES, _SHARE_FOR_FEATURES * budget_seconds)


def _run(context: RaceContext, candidates: Sequence[Candidate], *, combine: bool, max_cost_factor: float) -> RaceResult:
    """The race itself, in the order in which it happens."""
    classifier, outputs, selector = context.classifier, context.outputs, context.selector
    post_hoc = uploaded(classifier, selector, outputs.logits, outputs.features)
    halving = SuccessiveHalving(context)
    kept = _KEPT_FOR_STUDENT if combine and max_cost_factor < 2 else 0.0
    halving.run(candidates, kept=kept, then=1 if combine else 0)
    refined = [_refined(trial, selector) for trial in halving.best(_REFINED)]
    averaged = EnsembleBuilder(context, halving, max_cost_factor).run(post_hoc, refined) if combine else []
    classifier.to("cpu")
    trained = _best([*(trial.finalist for trial in refined), *averaged], post_hoc, selector)
    finalists = {**_behind(post_hoc, selector, outputs.logits), "post_hoc": post_hoc}
    if trained is not None:
        finalists["trained"] = trained
    return RaceResult(
        candidates=(post_hoc.result, *halving.results_with(refined), *(one.result for one in averaged)),
        temperature=TemperatureScaling().fit(outputs.logits, selector.targets, weights=selector.weights),
        finalists=finalists,
        order=selector.order(
            {name: one.held_out for name, one in finalists.items()},
            outputs.logits,
            [name for name, one in finalists.items() if one.classifier is classifier and keeps_labels(one.calibrator)],
        ),
        base_logits=outputs.logits,
        notes=tuple(dict.fromkeys(halving.notes)),
        diagnostics=_diagnostics(trained, halving),
        rates=halving.rates,
    )


def _behind(post_hoc: Finalist, selector: CalibratorSelector, logits: Floats) -> dict[str, Finalist]:
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


def _refined(trial: Trial, selector: CalibratorSelector) -> Trial:
    """The trial with a calibrator chosen with care, which may read its features too where they are its own.

    A head has none of its own, and a map of the uploaded network's already stands behind the uploaded head.
    """
    calibrated = selector.calibrate(trial.logits, trial.features)
    result = selector.scored(trial.finalist.result, calibrated)
    finalist = replace(trial.finalist, calibrator=calibrated.calibrator, held_out=calibrated.held_out, result=result)
    return replace(trial, finalist=finalist)


def _best(rivals: Sequence[Finalist], post_hoc: Finalist, selector: CalibratorSelector) -> Finalist | None:
    """The rival with the lowest cross-fitted NLL, if it clearly beats the post-hoc finalist."""
    accurate = [one for one in rivals if one.result.status == "finished"]
    best = min(accurate, key=lambda one: selector.nll(one.held_out), default=None)
    return best if best is not None and selector.beats(best.held_out, post_hoc.held_out) else None


def _diagnostics(trained: Finalist | None, halving: SuccessiveHalving) -> FedLASDiagnostics | None:
    """What FedLAS saw: of the trained finalist if it is FedLAS itself, else of the best FedLAS candidate."""
    if trained is not None and trained.diagnostics is not None:
        return trained.diagnostics
    return next(
        (one.finalist.diagnostics for one in halving.best(len(halving.trials)) if one.finalist.diagnostics), None
    )
