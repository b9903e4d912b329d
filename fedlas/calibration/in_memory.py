"""A calibration of what a program holds: a model and rows with labels in, a judged model with its report out.

No server takes part; `InMemoryJob` does what a worker does.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from fedlas.calibration.evaluation import CalibrationOptions
from fedlas.calibration.job_in_memory import InMemoryJob, sha256_of
from fedlas.calibration.result import CalibrationResult
from fedlas.calibration.scores import ScoredRows, calibrate_scores
from fedlas.calibration.sources import LabelledRows, LabelledScores, ModelSource
from fedlas.conversion import ConversionError, dataset_file
from fedlas.data.scores import read_scores
from fedlas.observer import Observer

#: Half an hour is for a server; a cell of a notebook is waited for.
_BUDGET_MINUTES = 5


def calibrate(
    model: Any,
    train: Any = None,
    calibration: Any = None,
    test: Any = None,
    *,
    method: str | None = None,
    budget: str | float | timedelta | None = None,
    options: CalibrationOptions | None = None,
    observer: Observer | None = None,
) -> CalibrationResult:
    """Calibrate a classifier, and judge on test rows what came of it; nothing of the model that is given changes.

    Args:
        model: a `torch.nn.Module`, which is fine-tuned and calibrated; a fitted classifier of scikit-learn; or the path
            of an ONNX file. What cannot be written as ONNX has its scores calibrated. `fedlas.ModelSource` says more
            about it, such as `class_names`; `fedlas.LabelledScores` are scores with labels in place of a model and
            rows.
        train, calibration, test: rows with labels for each purpose, each of any kind that
            `fedlas.conversion.dataset_file` takes: `(X, y)`, a loader, a dataset, a frame, a mapping of arrays.
            `train` may be None: then calibration rows train. Where it is given alone it is all rows, or a path, with a
            column `split`; without one, splits are drawn, and `fedlas.LabelledRows` says which rows the model has seen
            (`seen_by_model`), and what the columns are.
        method: `auto` (default), `post_hoc` or `temperature`, which train nothing, or a loss (`fedlas.race.METHODS`);
            of scores the name of a calibrator.
        budget: the most that a calibration takes, 5 minutes by default: minutes, a text such as `90s`, `2m` or `1h`, or
            a timedelta.
        options: everything else, such as seed, gate, class priors and accepted warnings; the arguments above go before
            it.
        observer: is called while the calibration runs; `fedlas.PrintingObserver()` prints how far it is.

    Returns:
        The result: `verdict`, `summary` and `report`, which a notebook shows inline; `model`, `save`, `save_report`.

    Raises:
        FedLASError: model or rows cannot be used; the message says what was found and what to do.

    Examples:
        >>> import numpy as np
        >>> from fedlas import LabelledScores
        >>> rng = np.random.default_rng(0)
        >>> truth = 2 * rng.normal(size=(400, 3))
        >>> labels = (truth + rng.gumbel(size=truth.shape)).argmax(axis=1)
        >>> result = calibrate(LabelledScores(logits=3 * truth, labels=labels))
        >>> result.verdict, result.serves
        ('post_hoc', True)
        >>> result.model.predict_proba(3 * truth).shape
        (400, 3)
    """
    chosen = options or CalibrationOptions(budget=_BUDGET_MINUTES)
    chosen = replace(chosen, method=method or chosen.method, budget=chosen.budget if budget is None else budget)
    parts = {
        split: part
        for split, part in (("train", train), ("calibration", calibration), ("test", test))
        if part is not None
    }
    folder = Path(tempfile.mkdtemp(prefix="fedlas-"))
    try:
        if isinstance(model, LabelledScores):
            if parts:
                raise ConversionError("model_and_scores", "give a model with rows, or scores with labels, not both")
            result = _of_scores(model, folder, chosen)
        else:
            source = model if isinstance(model, ModelSource) else ModelSource(model)
            result = InMemoryJob(source, _rows(parts), folder, chosen, observer).calibrated()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result


def _rows(parts: dict[str, Any]) -> LabelledRows:
    if list(parts) == ["train"]:
        return parts["train"] if isinstance(parts["train"], LabelledRows) else LabelledRows(parts["train"])
    if "calibration" not in parts or "test" not in parts:
        raise ConversionError(
            "parts_missing",
            "calibration and test rows are needed: fedlas.calibrate(model, train, calibration, test), or "
            "fedlas.calibrate(model, rows) with all rows, whose splits are drawn; given were "
            f"{', '.join(parts) or 'none'}",
        )
    for split, part in parts.items():
        if isinstance(part, str | Path | LabelledRows):
            raise ConversionError(
                "part_is_all", f"{split} is a path, or LabelledRows, which are all rows: give one alone, with splits"
            )
    return LabelledRows(parts)


def _of_scores(scores: LabelledScores, folder: Path, options: CalibrationOptions) -> CalibrationResult:
    from fedlas.calibration.model_scores import score_names, score_rows

    kind = "probabilities" if scores.logits is None else "logits"
    values = getattr(scores, kind)
    names = score_names(values, scores.labels, scores.class_names)
    file = dataset_file(score_rows(kind, values, scores.labels), folder=folder, class_names=names)
    rows = ScoredRows.of(read_scores(file.path, class_names=names, split_shares=scores.split_shares))
    found = calibrate_scores(rows, options, digests={"scores_sha256": sha256_of(file.path)})
    return CalibrationResult.of_scores(found, folder, notes=file.notes)
