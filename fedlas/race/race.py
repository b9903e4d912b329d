"""The race: candidates are trained on fresh rows, calibrated and scored out-of-fold, and the best is trained on all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fedlas.calibrators import Identity, TemperatureScaling
from fedlas.classifier import Classifier
from fedlas.observer import Observer
from fedlas.progress import JobProgress
from fedlas.race.averaging import average, worth_a_refit
from fedlas.race.calibrator_selection import CalibratorSelector
from fedlas.race.candidates import Candidate
from fedlas.race.context import ProgressReporter, RaceContext, Rows, SplitOutputs, TrainingRows
from fedlas.race.cross_fitting import CrossFitting, Trial
from fedlas.race.record import Journal, Record
from fedlas.race.results import CrossFitted, Finalist, RaceResult, post_hoc_names
from fedlas.race.schedule import TimeBudget

_REFINED = 3
#: With this cost and more a second refit joins the average.
_COST_OF_TWO_REFITS = 3.0
#: One calibrator that reads features may take this share of the budget, and so many seconds whatever the budget is.
_SHARE_FOR_FEATURES = 0.1
_MIN_SECONDS_FOR_FEATURES = 2.0


@dataclass(frozen=True)
class RaceRows:
    """The rows of a race.

    Attributes:
        calibration: `(inputs, targets)`, one array per model input.
        training: train and calibration rows in one; None trains nothing.
        groups: labels (N,) of groups of calibration rows that stay together in every fold.
        weights: sampling weights (N,) of the calibration rows, in every fit and choice.
    """

    calibration: Rows
    training: TrainingRows | None
    groups: ArrayLike | None = None
    weights: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class RaceOptions:
    """Options of a race.

    Attributes:
        budget_seconds: seconds from the beginning of the job to the end of the last training, at most.
        seconds_after: seconds of the budget that are kept for what the caller does with the finalists.
        max_accuracy_drop: a candidate that loses more of the uploaded model's accuracy is dropped.
        max_cost_factor: how many networks an answer may need, heads on one body being one; 2 allows an average of two
            networks.
        task: `binary` needs two classes; two classes let calibrators with an intercept compete.
        calibrators: names that may compete, over what `task` says (for example only `temperature`; then no calibrator
            reads the features either).
        device: of the trainings; None takes CUDA where there is one.
    """

    budget_seconds: float = 1800.0
    seconds_after: float = 0.0
    max_accuracy_drop: float = 0.005
    max_cost_factor: float = 1.0
    task: str = "multiclass"
    calibrators: Sequence[str] | None = None
    seed: int = 0
    device: torch.device | str | None = None


def run_race(
    classifier: Classifier,
    rows: RaceRows,
    candidates: Sequence[Candidate],
    options: RaceOptions = RaceOptions(),
    *,
    outputs: SplitOutputs | None = None,
    observer: Observer | None = None,
    journal: Journal | None = None,
    progress: JobProgress | None = None,
) -> RaceResult:
    """Name the finalists by calibration rows; `classifier` itself is left as it is.

    The uploaded model with its calibrators always finishes. Candidates are trained without one fold of the calibration
    rows after the other, within the budget, and scored on that fold; whole networks, or heads on features that are
    computed once where no network fits. Candidates whose accuracy falls too far under the uploaded model's are dropped.
    The best is trained once more on all rows, and pooled with the uploaded model where an answer may cost that much;
    what such a pool gives no weight to is not trained again.

    Args:
        outputs: of the classifier on the calibration rows, where they are at hand.
        observer: is called with the trainings and candidates; what it raises stops the race.
        journal: where decisions, finished trainings and the state of the running one are kept. A race that is killed
            and begun again with its journal trains on where it was and names the same finalists, bit by bit.
        progress: of a job that has begun: the budget counts from there.
    """
    progress = progress or JobProgress()
    progress.begin("training")
    inputs, targets = rows.calibration
    settings = {
        "candidates": [asdict(candidate) for candidate in candidates],
        "rows": [0 if rows.training is None else len(rows.training), len(targets)],
        "calibrators": None if options.calibrators is None else list(options.calibrators),
        "seed": options.seed,
        "budget_seconds": options.budget_seconds,
        "max_accuracy_drop": options.max_accuracy_drop,
        "max_cost_factor": options.max_cost_factor,
    }
    record = Record(journal, settings, began=progress.began)
    budget = TimeBudget(options.budget_seconds, record)
    budget.reserve = record.decided("seconds after the race", lambda: options.seconds_after)
    if outputs is None:
        outputs = SplitOutputs(classifier, inputs, split="calibration", device=options.device)
    budget.note_speed(outputs.seconds_per_row)
    selector = CalibratorSelector(
        targets,
        names=tuple(options.calibrators or post_hoc_names(outputs.logits.shape[1], len(targets), options.task)),
        reads_features=options.calibrators is None,
        groups=rows.groups,
        weights=rows.weights,
        seed=options.seed,
        base_correct=outputs.logits.argmax(axis=1) == targets,
        max_accuracy_drop=options.max_accuracy_drop,
        seconds=seconds_for_features(options.budget_seconds),
    )
    context = RaceContext(
        classifier,
        rows.training,
        rows.calibration,
        outputs,
        selector,
        budget,
        record,
        ProgressReporter(progress, record, observer),
        seed=options.seed,
        device=options.device,
    )
    return _run(context, candidates, options.max_cost_factor)


def _run(context: RaceContext, candidates: Sequence[Candidate], max_cost_factor: float) -> RaceResult:
    classifier, outputs, selector = context.classifier, context.outputs, context.selector
    temperature = selector.temperature(outputs.logits)
    pool, finalists = _post_hoc(context, temperature)
    own = [temperature, pool]
    if candidates:  # the one that the others are to beat
        context.reporter.candidate_ended("uploaded", finalists["post_hoc"].result)
    folds = CrossFitting(context)
    refits = number_of_refits(max_cost_factor)
    # The pools of the best trials read no features: they take as long as that of the uploaded network.
    of_pool = context.record.decided("seconds of a pool", lambda: selector.pool_seconds)
    context.budget.reserve += min(_REFINED, len(candidates)) * of_pool
    folds.run(candidates, refits=refits)
    trials = _best_first(folds.halving.trials, selector)
    folds.finish(trials)
    averages = max_cost_factor >= 2 or any(trial.result.scope == "head" for trial in trials)
    line = [one for one in trials if one.result.status == "finished"]
    worth = worth_a_refit(finalists["post_hoc"].held_out, own, line[:refits], selector, mixed=averages)
    context.reporter.progress.expect(len(worth))
    # A refit that fails gives way to the next in line.
    refitted = list(islice(filter(None, map(folds.refit, [*worth, *line[refits:]])), len(worth)))
    averaged = (
        _averaged(context, finalists["post_hoc"], own, refitted, max_cost_factor) if averages and refitted else None
    )
    classifier.to("cpu")
    for name, one in (("trained", next(iter(refitted), None)), ("average", averaged)):
        if one is not None and one.result.status == "finished" and _is_best(one, finalists, selector):
            finalists[name] = one
    tuned = [trial for trial in trials if refitted and trial.result.name == refitted[0].result.name]
    return RaceResult(
        candidates=(
            finalists["post_hoc"].result,
            *folds.results,
            *([] if averaged is None else [averaged.result]),
        ),
        temperature=TemperatureScaling().fit(outputs.logits, selector.targets, weights=selector.weights),
        finalists=finalists,
        base_logits=outputs.logits,
        notes=tuple(dict.fromkeys([*folds.notes, *_lost_accuracy(folds, refitted), *folds.out_of_time()])),
        diagnostics=next((one.diagnostics for one in [*tuned, *trials] if one.diagnostics is not None), None),
        rates=folds.rates,
        out_of_fold={
            "uploaded": outputs.logits.astype(np.float64),
            "temperature": temperature.held_out,
            **{name: one.held_out for name, one in finalists.items()},
        },
        by_method=folds.halving.by_method,
        compared_rows=folds.halving.compared_rows,
    )


def _post_hoc(context: RaceContext, temperature: CrossFitted) -> tuple[CrossFitted, dict[str, Finalist]]:
    selector, outputs, began = context.selector, context.outputs, time.perf_counter()
    pool = selector.calibrate(outputs.logits, outputs.features)
    finalists, uploaded = selector.finalists(pool, temperature), outputs.logits.astype(np.float64)
    # A method that was named stays, and so does what few rows allow.
    if len(selector.names) > 1 and selector.nll(finalists["post_hoc"].held_out) >= selector.nll(uploaded):
        finalists = {"post_hoc": CrossFitted(Identity(), uploaded)}
    seconds = time.perf_counter() - began
    return pool, {
        name: Finalist(
            context.classifier, one.calibrator, selector.post_hoc(one, seconds=seconds), one.held_out, outputs.features
        )
        for name, one in finalists.items()
    }


def seconds_for_features(budget_seconds: float) -> float:
    return max(_MIN_SECONDS_FOR_FEATURES, _SHARE_FOR_FEATURES * budget_seconds)


def number_of_refits(max_cost_factor: float) -> int:
    return 2 if max_cost_factor >= _COST_OF_TWO_REFITS else 1


def _best_first(trials: Sequence[Trial], selector: CalibratorSelector) -> list[Trial]:
    """The best trials with the pool of calibrators, which on large networks matters; the lowest NLL first."""
    plain = sorted(trials, key=lambda trial: selector.nll(trial.calibrated.held_out))
    # The pools read no features: those of a refit are of rows that it was trained on.
    best = [_refined(trial, selector) for trial in plain[:_REFINED]]
    return sorted(best, key=lambda trial: selector.nll(trial.calibrated.held_out))


def _refined(trial: Trial, selector: CalibratorSelector) -> Trial:
    calibrated = selector.calibrate(trial.logits)
    return replace(trial, calibrated=calibrated, result=selector.scored(trial.result, calibrated))


def _averaged(
    context: RaceContext,
    uploaded: Finalist,
    own: Sequence[CrossFitted],
    refitted: Sequence[Finalist],
    max_cost_factor: float,
) -> Finalist | None:
    """The pool of upload and refits, reported; None where there is none, or an answer would cost more."""
    averaged = average(uploaded, own, refitted, context.selector)
    if averaged is None or averaged.networks > max_cost_factor:
        return None
    context.reporter.candidate_ended("average", averaged.result)
    return averaged


def _is_best(one: Finalist, simpler: Mapping[str, Finalist], selector: CalibratorSelector) -> bool:
    """True where the NLL out of fold is lower than that of all simpler finalists: what is served follows the score."""
    return selector.nll(one.held_out) < min(selector.nll(other.held_out) for other in simpler.values())


def _lost_accuracy(folds: CrossFitting, refitted: Sequence[Finalist]) -> list[str]:
    dropped = [trial for trial in folds.halving.trials if trial.result.status == "dropped"]
    if not dropped or refitted:
        return []
    return [f"Nothing that was trained is a finalist: of the best, {len(dropped)} lost too much accuracy."]
