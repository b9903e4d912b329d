"""The size of an answer, bounded before the model runs from its profile and from what is asked for.

Sizes are upper bounds: a prediction set may hold every class, a number every digit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from service.inference.oip.requests import RequestedOutput
from service.inference.profile import LabelSizes
from service.registry.answer_options import AnswerOptions
from service.registry.errors import TooLarge

#: What is surely less than this needs no closer look.
FEW_ANSWER_BYTES = 64 * 1024
#: JSON takes the interpreter to write, and binary tensors do not: of 64 MiB of JSON for some 0.2 s.
_JSON_WEIGHT = 4
#: What may be held while an answer is made, as a multiple of what may be sent.
_HELD_RATIO = 4
#: JSON of a row's fixed fields, of one of the best classes, and of numbers, each with its name and comma.
_ROW, _OPTIONAL, _RANKED, _FLOAT32, _FLOAT64, _INDEX, _BOOL = 170, 50, 70, 16, 26, 9, 6
#: Objects in memory: a row's dictionary with its values, one of the best classes, a text made for one place, a number.
_ROW_OBJECTS, _RANKED_OBJECTS, _TEXT_OBJECT, _POINTER, _NUMBER_OBJECT = 900, 330, 70, 8, 32
#: To rank a class: its probability negated, and its place.
_RANKING = 12


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
        """In memory, with what is sent."""
        return self.held + self.json + self.binary

    def check(self, rows: int, limit: int) -> None:
        """Raise TooLarge `answer_too_large`, with the number of rows that may be asked for.

        Args:
            limit: of binary answers; of JSON a quarter.
        """
        room = max(0, limit - _JSON_WEIGHT * self.once)
        if rows * self._weight <= room and rows * self.held <= _HELD_RATIO * limit:
            return
        most = min(room // max(1, self._weight), _HELD_RATIO * limit // max(1, self.held))
        size = f"an answer to {rows} rows takes up to {rows * (self.json + self.binary) + self.once} bytes"
        advice = f"ask for at most {most} rows at once, or for less of each" if most else "ask for less of each row"
        raise TooLarge("answer_too_large", f"{size} and {rows * self.held} in memory: {advice}", field="inputs")


def of_predictions(labels: LabelSizes, options: AnswerOptions, *, shifted: bool = False) -> RowSize:
    """One of the objects of `writers.json_rows`; probabilities that are `shifted` to other priors are a second copy."""
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
    """One of the rows of `writers.npy`; `shifted` as in `of_predictions`."""
    return RowSize(0, 4 * labels.classes, (12 if shifted else 8) * labels.classes)


def of_tensors(
    labels: LabelSizes, options: AnswerOptions, wanted: Iterable[RequestedOutput], *, shifted: bool = False
) -> RowSize:
    """What `writers.tensors` makes for these outputs; `shifted` as in `of_predictions`."""
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
    """As JSON, as a binary tensor, and in memory besides."""
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
