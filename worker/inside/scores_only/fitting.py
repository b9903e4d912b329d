"""A calibrator fitted on one part of the scores and judged on the other, with a report; files in, files out.

Both parts are fixed before anything is fitted, and what is returned is what was judged: the calibrator of the first
part, not one fitted again on all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlas import metrics
from fedlas.calibrators import CALIBRATORS, Calibrator, softmax
from fedlas.data.splits import check_groups, draw_splits, given_splits
from fedlas.documents import as_json
from fedlas.errors import BadDataset, FedLASError
from fedlas.gate.claims import GateResult
from fedlas.gate.gate import judge
from fedlas.metrics.evaluate import Estimates
from fedlas.race import scoring
from fedlas.report import library_versions
from worker.inside.scores_only.graph import write
from worker.inside.scores_only.reading import Scores, read_scores

Json = dict[str, Any]
Emit = Callable[[Json], None]
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_SEED = 0
_MIN_ROWS = 10
_MAX_ACCURACY_DROP = 0.005
_CONFIDENCE_LEVEL = 0.95
#: Intervals rest on this many resamples, fewer where there are many rows, which need them less.
_RESAMPLES, _RESAMPLED_ROWS = 1000, 10_000_000


def fit_scores(spec: Json, folder: Path, emit: Emit) -> Json:
    """Fit, judge and write; `calibrator.onnx` is left in `folder`."""
    options = spec["options"]
    scores = read_scores(spec["file"], class_names=options["class_names"])
    fitting, judging = _parts(scores)
    calibrator, tried = _fitted(scores, fitting, options["method"])
    error = write(folder / "calibrator.onnx", calibrator, scores, sha256=spec["sha256"])
    report = _report(scores, calibrator, fitting, judging)
    report |= {
        "methods": {"asked": options["method"], "tried": tried, "fitted": calibrator.name},
        "max_probability_error": error,
        "digests": {"scores_sha256": spec["sha256"]},
    }
    return {
        "method": calibrator.name,
        "parameters": calibrator.parameters(),
        "report": as_json(report),
        "profile": {
            "input": scores.kind,
            "num_samples": len(scores.targets),
            "num_classes": len(scores.class_names),
            "class_names": scores.class_names,
        },
        "onnx": "calibrator.onnx",
    }


def _parts(scores: Scores) -> tuple[Rows, Rows]:
    """Rows to fit on and rows to judge on: as given, or drawn half and half (by class, whole groups)."""
    groups = None if scores.group is None else np.unique(scores.group, return_inverse=True)[1].astype(np.int64)
    if scores.split is not None:
        codes = given_splits("split", scores.split)
        if groups is not None and scores.group is not None:
            check_groups(codes, groups, scores.group)
        calibration, test = np.flatnonzero(codes == 1), np.flatnonzero(codes == 3)
        unused = len(codes) - len(calibration) - len(test)
        if unused:
            scores.notes.append(f"{unused} rows of the splits train and guarantee were not used.")
    else:
        # Half of what is drawn there is called `train`: here it is the half that fits.
        codes = draw_splits(scores.targets, groups=groups, seed=_SEED)
        calibration, test = np.flatnonzero(codes == 0), np.flatnonzero(codes != 0)
    for rows, use in ((calibration, "fit"), (test, "judge")):
        if len(rows) < _MIN_ROWS:
            raise BadDataset(
                "split_too_small",
                f"of {len(codes)} rows {len(calibration)} would fit and {len(test)} judge the calibrator; "
                f"to {use} it at least {_MIN_ROWS} are needed",
            )
    if groups is not None and len(np.unique(groups[test])) < 2:
        raise BadDataset("split_too_small", "all rows that would judge are of one group, at least 2 groups are needed")
    return calibration, test


def _fitted(scores: Scores, rows: Rows, method: str) -> tuple[Calibrator, list[str]]:
    """The calibrator, and the names of those it was chosen among."""
    logits, targets = scores.logits[rows], scores.targets[rows]
    names = _candidates(method, logits.shape[1], len(rows))
    accuracy = float((logits.argmax(axis=1) == targets).mean())
    try:
        chosen = scoring.fit_calibrator(
            logits,
            targets,
            names,
            accuracy - _MAX_ACCURACY_DROP,
            seed=_SEED,
            groups=None if scores.group is None else scores.group[rows],
        )
    except FedLASError:
        raise
    except ValueError as error:  # the scores were checked, so it is the method that does not suit them
        raise BadDataset("unsuitable_method", f"{method!r} cannot be fitted on these scores: {error}") from error
    return chosen, list(names)


def _candidates(method: str, num_classes: int, num_rows: int) -> tuple[str, ...]:
    if method != "auto":
        if method not in CALIBRATORS:
            known = ", ".join(["auto", *sorted(CALIBRATORS)])
            raise BadDataset("unknown_method", f"method {method!r} is none of {known}")
        return (method,)
    return scoring.post_hoc_names(num_classes, num_rows)


def _report(scores: Scores, calibrator: Calibrator, fitting: Rows, judging: Rows) -> Json:
    """What the calibrator does to rows that it was not fitted on."""
    logits, targets = scores.logits[judging], scores.targets[judging]
    groups = None if scores.group is None else scores.group[judging]
    before, after = softmax(logits), softmax(calibrator(logits))
    judgement = judge(
        uploaded=before,
        post_hoc=after,
        trained=None,
        targets=targets,
        groups=groups,
        provenance="no",
        confidence_level=_CONFIDENCE_LEVEL,
        max_accuracy_drop=_MAX_ACCURACY_DROP,
        seed=_SEED,
    )
    resamples = max(200, min(_RESAMPLES, _RESAMPLED_ROWS // len(judging)))
    options: Json = {
        "groups": groups, "num_resamples": resamples, "confidence_level": _CONFIDENCE_LEVEL, "seed": _SEED
    }  # fmt: skip
    shown = {
        "uploaded": metrics.evaluate(before, targets, **options),
        "calibrated": metrics.evaluate(after, targets, **options),
    }
    difference = metrics.compare(after, before, targets, **options)
    return {
        "verdict": judgement.verdict,
        "promoted": judgement.promoted,
        "summary": [*_summary(judgement, shown, fitting, judging, drawn=scores.split is None), *scores.notes],
        "metrics": {name: _as_dicts(estimates) for name, estimates in shown.items()},
        "differences": {"calibrated_minus_uploaded": _as_dicts(difference)},
        "num_calibration_rows": len(fitting),
        "num_test_rows": len(judging),
        "confidence_level": _CONFIDENCE_LEVEL,
        "gate": judgement.as_dict(),
        "seed": _SEED,
        "versions": library_versions(),
    }


def _summary(
    judgement: GateResult, shown: Mapping[str, Estimates], fitting: Rows, judging: Rows, *, drawn: bool
) -> list[str]:
    """Sentences for somebody who reads nothing else."""
    before, after = shown["uploaded"], shown["calibrated"]
    how = "drawn by chance: half of each class, whole groups" if drawn else "as the split column says"
    fallback = [] if judgement.promoted else ["The calibrator is returned all the same; whether to use it is yours."]
    return [
        judgement.sentences[0],
        *fallback,
        f"It was fitted on {len(fitting)} rows and judged on {len(judging)} others ({how}). There "
        f"NLL goes from {before['nll'].value:.3f} to {after['nll'].value:.3f}, "
        f"Brier from {before['brier'].value:.3f} to {after['brier'].value:.3f}, "
        f"ECE from {100 * before['ece'].value:.1f} % to {100 * after['ece'].value:.1f} %, "
        f"accuracy from {100 * before['accuracy'].value:.1f} % to {100 * after['accuracy'].value:.1f} %.",
        "All this assumes that the model was not trained on any of these rows, which scores alone cannot show: on "
        "rows that it has learnt by heart every figure here is worthless.",
        "It knows nothing of earlier calibrators that were judged on the same rows: with every further look a chance "
        "finding becomes likelier.",
    ]


def _as_dicts(estimates: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {name: estimate.as_dict() for name, estimate in estimates.items()}
