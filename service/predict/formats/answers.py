"""Answers: predictions as JSON rows, as npy and as tensors, each of a size that is bounded before the model runs.

Sizes are upper bounds: a prediction set may hold every class, a number every digit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import orjson

from fedlas.contract.options import AnswerOptions
from fedlas.contract.profiles import ModelPromise
from service.predict.engine.profile import LabelSizes, ServingProfile
from service.predict.formats.json_inputs import all_finite
from service.predict.formats.oip_requests import RequestedOutput
from service.predict.formats.oip_tensors import prefixed
from service.predict.formats.predictions import Predictions, best_classes, check_finite
from service.registry.errors import TooLarge

#: Answers that are surely smaller need no closer look.
FEW_ANSWER_BYTES = 64 * 1024
#: JSON takes the interpreter to write, and binary tensors do not: of 64 MiB of JSON for some 0.2 s.
_JSON_WEIGHT = 4
#: The bytes held while an answer is made, as a multiple of what may be sent.
_HELD_RATIO = 4
#: JSON of a row's fixed fields, of one of the best classes, and of numbers, each with its name and comma.
_ROW = 170
_OPTIONAL = 50
_RANKED = 70
_FLOAT32 = 16
_FLOAT64 = 26
_INDEX = 9
_BOOL = 6
#: Objects in memory: a row's dictionary with its values, one of the best classes, a text made for one place, a number.
_ROW_OBJECTS = 900
_RANKED_OBJECTS = 330
_TEXT_OBJECT = 70
_POINTER = 8
_NUMBER_OBJECT = 32
#: To rank a class: its probability negated, and its place.
_RANKING = 12
#: Classes of a single row that Python ranks in less time than numpy's calls take.
_FEW_CLASSES = 100
#: The bytes of so many class names are kept: 256 labels are joined in 3 µs instead of 20.
_FEW_NAMES = 1024
#: Outputs that are class names, by the column that says which.
_LABELS: Mapping[str, Callable[[Predictions], np.ndarray | None]] = {
    "label": lambda rows: rows.index,
    "top_k_label": lambda rows: rows.best,
    "decision": lambda rows: rows.decision,
}


class RowSize(NamedTuple):
    """The size of one row of an answer, in bytes: as JSON, as binary tensors, and in memory while it is made.

    `once` is JSON that stands beside the rows, however many they are.
    """

    json: int
    binary: int
    held: int
    once: int = 0

    @property
    def _weight(self) -> int:
        return _JSON_WEIGHT * self.json + self.binary

    @property
    def total(self) -> int:
        return self.held + self.json + self.binary

    def check(self, rows: int, limit: int) -> None:
        """Raise TooLarge `answer_too_large` with a number of rows that fits; JSON may fill a quarter of `limit`."""
        room = max(0, limit - _JSON_WEIGHT * self.once)
        if rows * self._weight <= room and rows * self.held <= _HELD_RATIO * limit:
            return
        most = min(room // max(1, self._weight), _HELD_RATIO * limit // max(1, self.held))
        size = f"an answer to {rows} rows takes up to {rows * (self.json + self.binary) + self.once} bytes"
        advice = f"ask for at most {most} rows at once, or for less of each" if most else "ask for less of each row"
        raise TooLarge("answer_too_large", f"{size} and {rows * self.held} in memory: {advice}", field="inputs")


def of_predictions(labels: LabelSizes, options: AnswerOptions, *, shifted: bool = False) -> RowSize:
    """One of the objects of `write_json`; probabilities that are `shifted` to other priors are a second copy."""
    json, held = _ROW + _OPTIONAL + labels.longest, _ROW_OBJECTS + (12 if shifted else 8) * labels.classes
    if options.top_k is not None:
        k = min(options.top_k, labels.classes)
        json += _RANKED * k + labels.of_best(k)
        held += _RANKED_OBJECTS * k + _RANKING * labels.classes
    if options.coverage is not None:
        json += _OPTIONAL + labels.total
        held += (_RANKING + _POINTER) * labels.classes
    if options.decision is not None:
        json += _OPTIONAL + labels.longest
        held += 4 * labels.classes
    if not options.probabilities:
        return RowSize(json, 0, held)
    json += _OPTIONAL + _FLOAT64 * labels.classes
    return RowSize(json, 0, held + _NUMBER_OBJECT * labels.classes, once=labels.total + _OPTIONAL)


def of_npy(labels: LabelSizes, *, shifted: bool = False) -> RowSize:
    """One of the rows of `write_npy`; `shifted` as in `of_predictions`."""
    return RowSize(0, 4 * labels.classes, (12 if shifted else 8) * labels.classes)


def of_tensors(
    labels: LabelSizes, options: AnswerOptions, wanted: Iterable[RequestedOutput], *, shifted: bool = False
) -> RowSize:
    """The arrays of `tensors` for these outputs; `shifted` as in `of_predictions`."""
    k = labels.classes if options.top_k is None else min(options.top_k, labels.classes)
    json = binary = 0
    held = (12 if shifted else 8) * labels.classes
    for output in wanted:
        text, plain, memory = _of_output(output, labels, k)
        held += memory
        if output.binary:
            binary += plain
        else:
            json += text
    return RowSize(json, binary, held)


def _of_output(output: RequestedOutput, labels: LabelSizes, k: int) -> tuple[int, int, int]:
    classes = labels.classes
    if output.classes is not None:
        k = min(output.classes, classes)
        size = 30 * k + labels.of_best(k)
        return size, size, _TEXT_OBJECT * k + size + _RANKING * classes
    match output.name:
        case "probabilities" | "logits":
            return _FLOAT32 * classes, 4 * classes, 0
        case "features":
            return _FLOAT32 * labels.features, 4 * labels.features, 4 * labels.features
        case "prediction_set":
            return _BOOL * classes, classes, _RANKING * classes
        case "label" | "decision":
            return labels.longest + 3, labels.longest + 4, _POINTER
        case "top_k_label":
            return labels.of_best(k) + k, labels.of_best(k) + 4 * k, _POINTER * k + _RANKING * classes
        case "top_k_index":
            return _INDEX * k, 8 * k, _RANKING * classes
        case "top_k_confidence":
            return _FLOAT32 * k, 4 * k, _RANKING * classes
    return _FLOAT64, 8, 8


def json_rows(predictions: Predictions) -> list[dict[str, object]]:
    policy = predictions.policy
    names, threshold = policy.profile.class_names, policy.threshold
    rows: list[dict[str, object]] = [
        {
            "label": names[index],
            "index": index,
            "confidence": confidence,
            "uncalibrated_confidence": uncalibrated,
            "abstain": confidence < threshold,
        }
        for index, confidence, uncalibrated in zip(
            predictions.index.tolist(),
            predictions.confidence.tolist(),
            predictions.uncalibrated_confidence.tolist(),
            strict=True,
        )
    ]
    if (probability := predictions.probability) is not None:
        _add(rows, "probability", probability.tolist())
    if (typicality := predictions.typicality) is not None:
        _add(rows, "typicality", typicality.tolist())
    if policy.options.top_k is not None:
        _add(rows, "top_k", _top_k(predictions, policy.options.top_k))
    if policy.options.coverage is not None:
        classes, sizes = policy.sets(predictions.probabilities)
        members = [names[index] for index in classes.tolist()]
        ends = [0, *sizes.cumsum().tolist()]
        _add(rows, "prediction_set", [members[begin:end] for begin, end in pairwise(ends)])
    if (decision := predictions.decision) is not None:
        _add(rows, "decision", [names[index] for index in decision.tolist()])
    if policy.options.probabilities:
        _add(rows, "probabilities", predictions.probabilities.tolist())
    return rows


def write_json(predictions: Predictions, model: bytes) -> bytes:
    """The body of an answer; `model` is the JSON of the model that predicts."""
    policy = predictions.policy
    said, share = policy.shift.said, policy.answered_share
    more = b"" if said is None else b',"class_priors":' + said
    more += b"" if share is None else b',"answered_share":' + orjson.dumps(share)
    if isinstance(policy.options.max_error, float) and policy.profile.guarantees is not None:
        promise = ModelPromise(
            max_error=policy.options.max_error,
            confidence=1 - policy.profile.guarantees.delta,
            threshold=policy.threshold,
            answered_share=share,
        )
        more = b',"promise":' + promise.model_dump_json().encode() + more
    more += b',"class_names":' + orjson.dumps(list(policy.profile.class_names)) if policy.options.probabilities else b""
    return b'{"model":%b%b,"predictions":%b}' % (model, more, orjson.dumps(json_rows(predictions)))


def _add(rows: list[dict[str, object]], name: str, column: Sequence[object]) -> None:
    for row, value in zip(rows, column, strict=True):
        row[name] = value


def _top_k(predictions: Predictions, k: int) -> list[list[dict[str, object]]]:
    names, probs = predictions.policy.profile.class_names, predictions.probabilities
    if len(probs) == 1 and probs.shape[1] <= _FEW_CLASSES:
        row = probs[0].tolist()
        best = sorted(range(len(row)), key=row.__getitem__, reverse=True)[:k]
        return [[{"label": names[index], "index": index, "confidence": row[index]} for index in best]]
    return [
        [
            {"label": names[index], "index": index, "confidence": confidence}
            for index, confidence in zip(indices, confidences, strict=True)
        ]
        for indices, confidences in zip(predictions.best.tolist(), predictions.best_confidence.tolist(), strict=True)
    ]


def write_npy(predictions: Predictions) -> bytes:
    """The body of an answer: (N, K) float32, the columns in the order of the model's `class_names`."""
    buffer = BytesIO()
    np.lib.format.write_array(buffer, predictions.probabilities.astype(np.float32, copy=False), allow_pickle=False)
    return buffer.getvalue()


def tensors(predictions: Predictions, requested: Sequence[RequestedOutput]) -> dict[str, np.ndarray]:
    """One array for each requested output, by its name.

    Shapes and types: probabilities and logits (N, K) float32, features (N, D) float32, confidence, typicality and
    probability (N,) float32, uncalibrated_confidence (N,) float64, index (N,) int64, label and decision (N,) texts,
    abstain (N,) bool, threshold (1,) float64, prediction_set (N, K) bool, top_k_index, top_k_label and top_k_confidence
    (N, k) int64, texts and float32. Texts are objects, each `str`, or the `bytes` of a binary tensor. With `classes`,
    (N, k) texts "value:index:label", the largest first.
    Raises InvalidRequest `non_finite_output` for rows that overflow.
    """
    arrays: dict[str, np.ndarray] = {}
    for output in requested:
        if (index_of := _LABELS.get(output.name)) is not None:
            arrays[output.name] = _labels(predictions.policy.profile, index_of(predictions), binary=output.binary)
            continue
        compute = _COLUMNS.get(output.name)
        array = predictions.outputs[output.name] if compute is None else compute(predictions)
        if output.name in ("probabilities", "features") and not all_finite(array):
            check_finite(np.logical_and.reduce(np.isfinite(array), axis=1))
        arrays[output.name] = array if output.classes is None else _classified(array, predictions, output.classes)
    return arrays


def _labels(profile: ServingProfile, index: np.ndarray | None, *, binary: bool = False) -> np.ndarray:
    """Class names in the shape of `index`, as texts; for binary tensors as their bytes, where the names are few."""
    assert index is not None
    names = _binary_names(profile) if binary and len(profile.class_names) <= _FEW_NAMES else profile.name_array
    labels: np.ndarray = names[index]
    return labels


@lru_cache(maxsize=256)
def _binary_names(profile: ServingProfile) -> np.ndarray:
    """The class names (K,) as objects, each the bytes that it becomes in a binary tensor."""
    return np.array([prefixed(name.encode()) for name in profile.class_names], dtype=object)


def _column(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array


#: Outputs that are not the file's own.
_COLUMNS: Mapping[str, Callable[[Predictions], np.ndarray]] = {
    "typicality": lambda rows: _column(rows.typicality),
    "probability": lambda rows: _column(rows.probability),
    "abstain": lambda rows: rows.abstain,
    "threshold": lambda rows: np.array([rows.policy.threshold], dtype=np.float64),
    "prediction_set": lambda rows: rows.policy.inside(rows.probabilities),
    "top_k_index": lambda rows: rows.best.astype(np.int64, copy=False),
    "top_k_confidence": lambda rows: rows.best_confidence,
}


def _classified(values: np.ndarray, predictions: Predictions, k: int) -> np.ndarray:
    best = best_classes(values, k)
    labels = _labels(predictions.policy.profile, best).ravel().tolist()
    numbers = np.take_along_axis(values, best, axis=1).ravel().astype(str).tolist()
    texts = [
        f"{number}:{index}:{label}" for number, index, label in zip(numbers, best.ravel().tolist(), labels, strict=True)
    ]
    return np.array(texts, dtype=object).reshape(best.shape)
