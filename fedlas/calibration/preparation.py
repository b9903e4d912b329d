"""The preparation of a calibration: before anything is trained, rows that it cannot use are refused.

Train rows that were drawn and that nothing is trained on serve as calibration rows too: a calibrator learns from every
row that the network has not seen. Which rows these are follows from the order and the dataset's record alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedlas.calibration.evaluation import CalibrationOptions, check_test_groups, ordered_priors
from fedlas.contract.profiles import Notice
from fedlas.data import SPLITS, Dataset, without_copies
from fedlas.data.arrays import pieces
from fedlas.data.dataset import Array, Integers
from fedlas.documents import adjustment, as_json
from fedlas.errors import BaselineMismatch
from fedlas.importers import GraphClassifier
from fedlas.importers.onnx.train.classifier import network_kind
from fedlas.preconditions.examination import Examined, examine
from fedlas.race.averaging import cost_limit
from fedlas.race.calibrator_selection import most_logits
from fedlas.race.candidates import Candidate, make_candidates
from fedlas.race.context import SplitOutputs, TrainingRows, require_numbers
from fedlas.race.race import seconds_for_features
from fedlas.race.record import Journal
from fedlas.report import SplitAccuracy
from fedlas.training.fit import predict_logits

#: Calibration rows times classes up to which idle rows join them: beyond, matrix scaling and other calibrators with
#: many parameters would be left out for want of time (`fedlas.race.results`), which costs more than rows bring.
MAX_SCORES = 500_000
Rows = tuple[list[Array], NDArray[np.int64]]
_EXPECTED_WITHIN = 0.05
#: Seconds of judging, writing and reporting: at the least, of each test row, and of each of its scores. Of six
#: finalists on a busy machine 2,000 rows took 2.8 s of processor time with ten classes, 5.1 s with 100; 20,000 rows
#: 17 s with ten and 39 s with 100; 500 rows of 1,000 classes 6.4 s.
_AFTER_S = 3.0
_ROW_S = 1e-3
_SCORE_S = 1e-5
#: Networks that see test rows where anything is trained (the upload, the refit, the refit in an average), and rows that
#: prove a written file.
_JUDGED_NETWORKS = 3
_PROVEN_ROWS = 512
_NOTICES = "notices"


def idle_rows(dataset: Dataset, *, most_scores: float = MAX_SCORES, seed: int = 0) -> Integers:
    """The train rows (M,), ascending, that may calibrate where nothing is trained; groups stay whole.

    There are none unless the splits were drawn and the network has seen no row. In a split by time train rows are the
    oldest, and calibration is what drifts first, so they stay idle. Calibration rows times classes stay within
    `most_scores`; where there are too many rows, `seed` draws some.
    """
    train = dataset.rows("train")
    room = int(most_scores) // len(dataset.class_names) - len(dataset.rows("calibration"))
    if not dataset.drawn or dataset.seen_by_model != "no" or "time" in dataset.roles or room <= 0:
        return train[:0]
    if len(train) <= room:
        return train
    groups = np.arange(len(train)) if dataset.groups is None else dataset.groups[train]
    codes = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(codes)
    order = np.random.default_rng(seed).permutation(len(sizes))
    return train[np.isin(codes, order[np.cumsum(sizes[order]) <= room])]


@dataclass(frozen=True)
class Start:
    """A classifier and its dataset before anything is trained.

    Attributes:
        dataset: its calibration rows are all that calibrate, with the train rows that would be idle.
        outputs: of the classifier on the calibration rows, whose classes are `targets` (N,).
        judged: whether test rows can judge, that is whether it is known what the classifier has seen.
        trains: whether anything is trained, rather than only calibrated.
        num_idle: how many of the calibration rows were drawn as train rows.
        left_out: a notice of the rows that are copies of train rows, which the dataset has no more.
    """

    classifier: GraphClassifier
    dataset: Dataset
    options: CalibrationOptions
    outputs: SplitOutputs
    targets: NDArray[np.int64]
    judged: bool
    trains: bool
    num_idle: int = 0
    left_out: Sequence[Notice] = ()

    @cached_property
    def accuracy(self) -> SplitAccuracy:
        correct = self.outputs.logits.argmax(axis=1) == self.targets
        groups, weights = self.dataset.groups_of("calibration"), self.dataset.weights_of("calibration")
        return SplitAccuracy.of(correct, groups=groups, weights=weights)

    @cached_property
    def notices(self) -> tuple[Notice, ...]:
        inputs = rows_of(self.dataset, "calibration")[0]
        logits, priors = self.outputs.logits, self.options.class_priors
        notices = examine(
            Examined(
                classifier=self.classifier,
                dataset=self.dataset,
                inputs=inputs,
                logits=logits,
                targets=self.targets,
                class_priors=priors,
            )
        )
        return (*self.left_out, *notices)

    @property
    def adjustments(self) -> tuple[Notice, ...]:
        told = adjustment(
            "train_rows_calibrate",
            f"Nothing is trained, so {self.num_idle:,} rows that were drawn to train calibrate beside the "
            f"{self.calibrated_on['calibration']:,} calibration rows; the model has seen none of them. What judges is "
            "unchanged.",
            rows=self.calibrated_on,
        )
        return (*self.classifier.adjustments, *self.dataset.adjustments, *([told] if self.num_idle else []))

    @property
    def calibrated_on(self) -> dict[str, int]:
        """How many rows of each split, as it was drawn or given, calibrate."""
        return {"train": self.num_idle, "calibration": len(self.targets) - self.num_idle}

    def candidates(self) -> list[Candidate]:
        return make_candidates(
            self.options.method if self.trains else "post_hoc",
            self.options.hyperparameters,
            kind=network_kind(self.classifier) if self.trains else "other",
            max_candidates=self.options.max_candidates,
        )

    def max_cost_factor(self) -> float:
        return cost_limit(self.options.max_cost_factor, self.classifier, rows_of(self.dataset, "calibration")[0])

    def training_rows(self) -> TrainingRows:
        """Train and calibration rows in one; nothing is copied where they lie side by side."""
        inputs, targets = self.dataset.select("train", "calibration")
        rows = self.dataset.rows("train", "calibration")
        calibration = np.searchsorted(rows, self.dataset.rows("calibration"))
        return TrainingRows(
            list(inputs.values()), targets, calibration, self.dataset.weights_of("train", "calibration")
        )


def prepare(classifier: GraphClassifier, dataset: Dataset, options: CalibrationOptions) -> Start:
    """Check everything that can be checked before training; raises as `calibrate` does."""
    judged = dataset.seen_by_model != "unknown"
    trains = judged and classifier.trainable and options.method not in ("post_hoc", "temperature")
    dataset.require("calibration", "test")
    dataset, left_out = without_copies(dataset)
    ordered_priors(dataset, options)
    _check_rows(classifier, dataset)
    most = _most_scores(classifier, dataset, options)
    idle = dataset.rows("train")[:0] if trains else idle_rows(dataset, most_scores=most, seed=options.seed)
    splits = dataset.splits.copy()
    splits[idle] = SPLITS.index("calibration")
    dataset = replace(dataset, splits=splits)
    inputs, targets = rows_of(dataset, "calibration")
    places = dataset.in_file(dataset.rows("calibration")) if len(idle) else None
    outputs = SplitOutputs(classifier, inputs, split="calibration", rows=places)
    return Start(classifier, dataset, options, outputs, targets, judged, trains, len(idle), left_out)


def notices_of(start: Start, journal: Journal | None) -> tuple[Notice, ...]:
    """The notices of a start, or those that an earlier attempt has found: their tries are cut by a clock."""
    if journal is None:
        return start.notices
    kept = journal.read(_NOTICES)
    if kept is not None and kept.get("key") == journal.key:
        return tuple(Notice(**notice) for notice in kept["notices"])
    with suppress(OSError):  # the next attempt looks again
        journal.write(_NOTICES, {"key": journal.key, "notices": as_json(start.notices)})
    return start.notices


def seconds_after_race(start: Start) -> float:
    """Seconds of what follows the race, by an estimate: the budget keeps them back from the trainings."""
    test, guarantee = (len(start.dataset.rows(split)) for split in ("test", "guarantee"))
    passed = (_JUDGED_NETWORKS if start.trains else 1) * (test + guarantee + _PROVEN_ROWS)
    judged = test * (_ROW_S + _SCORE_S * len(start.dataset.class_names))
    return _AFTER_S + judged + passed * start.outputs.seconds_per_row


def rows_of(dataset: Dataset, split: str) -> Rows:
    inputs, targets = dataset.select(split)
    return list(inputs.values()), targets


def _most_scores(classifier: GraphClassifier, dataset: Dataset, options: CalibrationOptions) -> float:
    """How many rows times classes may calibrate, so that no calibrator of the calibration rows alone drops out."""
    with_features = most_logits(classifier.feature_dim, seconds_for_features(options.budget_seconds))
    alone = len(dataset.rows("calibration")) * len(dataset.class_names)
    if options.method == "temperature" or alone > with_features:
        return MAX_SCORES
    return min(MAX_SCORES, with_features)


def _check_rows(classifier: GraphClassifier, dataset: Dataset) -> None:
    """Refuse before the race what could end in no report: test rows of one group, missing values it cannot read."""
    check_test_groups(dataset)
    for split in SPLITS:
        rows = dataset.rows(split)
        missing = np.zeros(len(rows), dtype=bool)
        for array in dataset.inputs.values():
            if array.dtype.kind == "f" and len(rows):
                missing |= np.concatenate(
                    [np.isnan(part).any(axis=tuple(range(1, array.ndim))) for part in pieces(array, rows)]
                )
        if missing.any():
            logits, features = predict_logits(classifier, [array[rows[missing]] for array in dataset.inputs.values()])
            require_numbers(logits, features, split=split, rows=dataset.in_file(rows[missing]))


def check_expected_accuracy(start: Start, notices: Sequence[Notice]) -> None:
    """Refuse an uploaded model whose accuracy is far from what its owner expects, either way."""
    accuracy, expected = start.accuracy, start.options.expected_accuracy
    if expected is None or abs(accuracy.value - expected) <= _EXPECTED_WITHIN + 1e-9:
        return
    low, high = accuracy.interval(0.95)
    check = next((notice.message for notice in notices if notice.severity == "error"), None) or (
        "check the order of the class names and the preprocessing"
        if accuracy.value < expected
        else "check that these rows are not easier than those it is meant for, and that it was not trained on them"
    )
    raise BaselineMismatch(
        f"the uploaded model is right on {100 * accuracy.value:.1f} % of the {len(start.targets):,} calibration rows "
        f"(95 % interval: {100 * low:.1f} to {100 * high:.1f} %), but {100 * expected:.1f} % was expected: {check}"
    )
