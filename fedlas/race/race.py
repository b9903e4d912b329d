"""The race: candidates are trained on copies, calibrated and scored on calibration rows; it sees no test rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fedlas.calibrators import TemperatureScaling
from fedlas.classifier import Classifier
from fedlas.race.candidate_training import Rows
from fedlas.race.candidates import Candidate
from fedlas.race.ensembling import Averaging, uploaded
from fedlas.race.journal import Journal
from fedlas.race.outputs import SplitOutputs
from fedlas.race.progress import OnCandidate, OnProgress, Telling
from fedlas.race.record import Record
from fedlas.race.results import Finalist, Floats, RaceResult, Signs
from fedlas.race.scoring import post_hoc_names
from fedlas.race.selection import Judge
from fedlas.race.successive_halving import Finisher, Heats
from fedlas.race.time_budget import Clock

#: So many of the best finishers are calibrated once more, with their features.
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
    outputs: SplitOutputs | None = None,
    device: torch.device | str | None = None,
) -> RaceResult:
    """Name the post-hoc and the trained finalist on calibration rows; `classifier` itself is left as it is.

    The uploaded model with a temperature always finishes. All candidates run in full where the budget allows it, else
    by successive halving; heads are trained on features that are computed once. Candidates whose accuracy falls more
    than `max_accuracy_drop` under the uploaded model's are dropped. The best finishers are averaged: as an ensemble
    where that costs at most `max_cost_factor` uploaded networks, else it teaches one network. The lowest cross-fitted
    NLL is the trained finalist if it beats the post-hoc one by more than a standard error.

    Args:
        train, calibration: `(inputs, targets)`, one array per model input; `train` None or empty trains nothing.
        task: `binary` needs two classes; two classes let calibrators with an intercept compete.
        groups: labels (N,) of groups of calibration rows that stay together in cross-fitting.
        calibrators: names that may compete, over what `task` says (for example only `temperature`; then no calibrator
            reads the features either).
        combine: whether finishers are averaged.
        on_progress: called before every candidate and after every epoch; what it raises stops the race.
        on_candidate: called with everything that was trained or averaged, as soon as it is scored; not with what an
            earlier attempt has told of.
        journal: where decisions, finished candidates and the state of the running one are kept. A race that is killed
            and begun again with its journal trains on where it was and names the same finalists, bit by bit.
        train_weights: sampling weights (N,) of the train rows, by which they are drawn.
        outputs: the classifier's on the calibration rows, where they are at hand.
    """
    record = _record(
        journal, train, calibration, candidates, seed=seed, budget_seconds=budget_seconds, combine=combine,
        max_accuracy_drop=max_accuracy_drop, max_cost_factor=max_cost_factor, calibrators=calibrators,
    )  # fmt: skip
    clock = Clock(budget_seconds, record)
    if outputs is None:
        outputs = SplitOutputs(classifier, calibration[0], split="calibration", device=device)
    clock.note_speed(outputs)
    base_logits, base_features = outputs.logits, outputs.features
    targets = calibration[1]
    names = tuple(calibrators or post_hoc_names(base_logits.shape[1], len(targets), task))
    accuracy = float(np.mean(base_logits.argmax(axis=1) == targets))
    seconds = max(_LEAST_FOR_FEATURES, _SHARE_FOR_FEATURES * budget_seconds)
    judge = Judge(targets, names, calibrators is None, groups, seed, accuracy, max_accuracy_drop, seconds)
    post_hoc = uploaded(classifier, judge, base_logits, base_features)
    heats = Heats(
        classifier, train, calibration, judge, clock, record, Telling(clock, record, on_progress, on_candidate),
        calibration_features=base_features, seed=seed, device=device, weights=train_weights,
    )  # fmt: skip
    combine = combine and len(candidates) > 1
    heats.run(candidates, kept=_KEPT_FOR_STUDENT if combine and max_cost_factor < 2 else 0.0, then=1 if combine else 0)
    refined = [_refined(finisher, judge) for finisher in heats.best(_REFINED)]
    averaged = Averaging(heats, judge, max_cost_factor).run(post_hoc, base_logits, refined) if combine else []
    classifier.to("cpu")
    trained = _best([*(finisher.finalist for finisher in refined), *averaged], post_hoc, judge)
    return RaceResult(
        candidates=(post_hoc.result, *heats.results_with(refined), *(one.result for one in averaged)),
        temperature=TemperatureScaling().fit(base_logits, targets),
        post_hoc=post_hoc,
        same_labels=_same_labels(post_hoc, judge, base_logits),
        trained=trained,
        base_logits=base_logits,
        notes=tuple(dict.fromkeys(heats.notes)),
        signs=_signs(trained, heats),
        rates=heats.rates,
    )


def _record(
    journal: Journal | None,
    train: Rows | None,
    calibration: Rows,
    candidates: Sequence[Candidate],
    *,
    calibrators: Sequence[str] | None,
    **settings: float,
) -> Record:
    """The race's record: what was begun with other settings or other numbers of rows is not gone on with."""
    return Record(
        journal,
        {
            "candidates": [asdict(candidate) for candidate in candidates],
            "rows": [0 if train is None else len(train[1]), len(calibration[1])],
            "calibrators": None if calibrators is None else list(calibrators),
            **settings,
        },
    )


def _same_labels(post_hoc: Finalist, judge: Judge, logits: Floats) -> Finalist:
    """The post-hoc finalist, or the best calibrator beside it that keeps the order of the classes."""
    keeping = judge.keeping_labels()
    if post_hoc.calibrator.keeps_order or keeping is None:
        return post_hoc
    return uploaded(post_hoc.classifier, keeping, logits, post_hoc.features)


def _refined(finisher: Finisher, judge: Judge) -> Finisher:
    """The finisher with a calibrator chosen with care, which may read its features too where they are its own.

    A head has none of its own, and a map of the uploaded network's already stands behind the uploaded head.
    """
    calibrated = judge.calibrate(finisher.logits, finisher.features)
    scores = judge.score(calibrated)
    reason = judge.too_inaccurate(scores)
    result = replace(
        finisher.finalist.result,
        calibration=scores,
        calibrator=calibrated.calibrator,
        status="dropped" if reason else "finished",
        reason=reason or "",
    )
    finalist = replace(finisher.finalist, calibrator=calibrated.calibrator, held_out=calibrated.held_out, result=result)
    return replace(finisher, finalist=finalist)


def _best(rivals: Sequence[Finalist], post_hoc: Finalist, judge: Judge) -> Finalist | None:
    """The rival with the lowest cross-fitted NLL, if it clearly beats the post-hoc finalist."""
    accurate = [one for one in rivals if one.result.status == "finished"]
    best = min(accurate, key=lambda one: float(judge.row_nll(one.held_out).mean()), default=None)
    return best if best is not None and judge.beats(best.held_out, post_hoc.held_out) else None


def _signs(trained: Finalist | None, heats: Heats) -> Signs | None:
    """What FedLAS saw: of the trained finalist if it is FedLAS itself, else of the best FedLAS candidate."""
    if trained is not None and trained.signs is not None:
        return trained.signs
    return next((one.finalist.signs for one in heats.best(len(heats.finishers)) if one.finalist.signs), None)
