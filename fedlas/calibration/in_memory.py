"""A calibration of what a program holds: a model and rows with labels in, a judged model with its report out.

No server takes part; `InMemoryJob` does what a worker does.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlas.calibration.evaluation import CalibrationOptions
from fedlas.calibration.job_in_memory import InMemoryJob, Progress, sha256_of
from fedlas.calibration.result import CalibrationResult
from fedlas.calibration.scores import ScoredRows, calibrate_scores
from fedlas.contract.profiles import Notice
from fedlas.conversion import ConversionError, dataset_file
from fedlas.data.scores import read_scores

__all__ = ["Progress", "calibrate"]
#: An hour is for a server; a cell of a notebook is waited for.
_BUDGET_SECONDS = 300.0


def calibrate(
    model: Any = None,
    train: Any = None,
    calibration: Any = None,
    test: Any = None,
    *,
    guarantee: Any = None,
    data: Any = None,
    logits: Any = None,
    probabilities: Any = None,
    labels: Any = None,
    method: str | None = None,
    budget_seconds: float | None = None,
    features: str | None = None,
    class_names: Sequence[str] | None = None,
    roles: Mapping[str, Any] | None = None,
    seen_by_model: str | None = None,
    split_shares: Mapping[str, float] | None = None,
    missing: str = "reject",
    output: str | None = None,
    task: str | None = None,
    architecture: str | None = None,
    seed: int | None = None,
    options: CalibrationOptions | None = None,
    on_progress: Callable[[Progress], object] | None = None,
    on_notice: Callable[[Notice], object] | None = None,
) -> CalibrationResult:
    """Calibrate a classifier, and judge on test rows what came of it; nothing of the model that is given changes.

    Args:
        model: a `torch.nn.Module`, which is fine-tuned and calibrated; a fitted classifier of scikit-learn; or the path
            of an ONNX file (safetensors with `architecture`). What cannot be written as ONNX has its scores calibrated.
        train, calibration, test, guarantee: rows with labels for each purpose, each of any kind that
            `fedlas.conversion.dataset_file` takes: `(X, y)`, a loader, a dataset, a frame, a mapping of arrays.
            `train` may be None: then calibration rows train.
        data: all rows at once instead, or a path, with a column `split`; without one, splits are drawn.
        logits, probabilities, labels: scores (N, K) and labels (N,) instead of a model and rows, or a mapping of them
            by split. Drawn half and half where they are not.
        method: `auto` (default), `post_hoc` or `temperature`, which train nothing, or a loss (`fedlas.race.METHODS`);
            of scores the name of a calibrator.
        budget_seconds: the most that a calibration takes, 300 by default.
        features: the submodule whose output is the features that FedLAS reads; by default the input of the last linear
            layer. Of a file, the tensor.
        class_names: in the order of the outputs.
        roles: role -> column, where the label is not called `label`, `labels`, `y` or `target`.
        seen_by_model: `no` where the model was trained on none of these rows, `train_split` (default where splits are
            given) where it may know train rows, `unknown` (default where they are drawn), with which nothing is shown.
        split_shares: shares of the splits where they are drawn.
        missing: `nan` lets NaN through to the model.
        output, task: which output of a file holds scores, and `binary` where a single one is a logit.
        seed: of everything that is drawn, 0 by default.
        options: everything else, such as guards, class priors and accepted warnings; the arguments above go before it.
        on_progress: called with `Progress`; `print` shows it.
        on_notice: called with everything that looks wrong (`fedlas.notice.Notice`), before anything is trained.

    Returns:
        The result: `verdict`, `summary` and `report`, which a notebook shows inline; `model`, `save`, `save_report`.

    Raises:
        FedLASError: model or rows cannot be used; the message says what was found and what to do.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> truth = 2 * rng.normal(size=(400, 3))
        >>> labels = (truth + rng.gumbel(size=truth.shape)).argmax(axis=1)
        >>> result = calibrate(logits=3 * truth, labels=labels)
        >>> result.verdict, result.promoted
        ('post_hoc', True)
        >>> result.model.predict_proba(3 * truth).shape
        (400, 3)
    """
    chosen = _options(options, method=method, budget_seconds=budget_seconds, seed=seed)
    folder = Path(tempfile.mkdtemp(prefix="fedlas-"))
    try:
        scores = {"logits": logits, "probabilities": probabilities}
        if logits is not None or probabilities is not None:
            if model is not None or data is not None or train is not None:
                raise ConversionError("model_and_scores", "give a model with rows, or scores with labels, not both")
            result = _of_scores(scores, labels, folder, chosen, class_names, split_shares)
        else:
            rows = _rows(model, data, train, calibration, guarantee, test)
            reading = {"roles": roles, "seen_by_model": seen_by_model, "split_shares": split_shares, "missing": missing}
            opening = {"features": features, "output": output, "task": task, "architecture": architecture}
            result = InMemoryJob(
                model, rows, folder, chosen, class_names, reading, opening, on_progress, on_notice
            ).calibrated()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result


def _options(given: CalibrationOptions | None, **changed: Any) -> CalibrationOptions:
    return replace(
        given or CalibrationOptions(budget_seconds=_BUDGET_SECONDS),
        **{name: value for name, value in changed.items() if value is not None},
    )


def _rows(model: Any, data: Any, train: Any, calibration: Any, guarantee: Any, test: Any) -> Any:
    if model is None:
        raise ConversionError("no_model", "give a model with rows, or logits= (or probabilities=) with labels=")
    parts = {"train": train, "calibration": calibration, "guarantee": guarantee, "test": test}
    given = {split: part for split, part in parts.items() if part is not None}
    if data is not None:
        if given:
            raise ConversionError("data_and_parts", f"give data=, or its parts ({', '.join(given)}), not both")
        return data
    if "calibration" not in given or "test" not in given:
        raise ConversionError(
            "parts_missing",
            "calibration and test rows are needed: fedlas.calibrate(model, train, calibration, test), or data= with "
            f"all rows, whose splits are drawn; given were {', '.join(given) or 'none'}",
        )
    if paths := [split for split, part in given.items() if isinstance(part, str | Path)]:
        raise ConversionError("part_is_path", f"{paths[0]} is a path: give data= one file with a column 'split'")
    return given


def _of_scores(
    scores: Mapping[str, Any],
    labels: Any,
    folder: Path,
    options: CalibrationOptions,
    class_names: Sequence[str] | None,
    split_shares: Mapping[str, float] | None,
) -> CalibrationResult:
    from fedlas.calibration.model_scores import score_names, score_rows

    given = {kind: values for kind, values in scores.items() if values is not None}
    if len(given) > 1 or labels is None:
        raise ConversionError("scores_and_labels", "give logits= or probabilities=, one of them, with labels=")
    ((kind, values),) = given.items()
    names = score_names(values, labels, class_names)
    file = dataset_file(score_rows(kind, values, labels), folder=folder, class_names=names)
    rows = ScoredRows.of(read_scores(file.path, class_names=names, split_shares=split_shares))
    found = calibrate_scores(rows, options, digests={"scores_sha256": sha256_of(file.path)})
    return CalibrationResult.of_scores(found, folder, notes=file.notes)
