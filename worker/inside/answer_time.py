"""The time of an answer: the calibrated file beside the uploaded network, in plain ONNX Runtime on one thread."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort
from onnx import ValueInfoProto

from fedlas.contract.profiles import AnswerTime
from fedlas.data.dataset import Array
from fedlas.importers import GraphClassifier
from fedlas.importers.onnx.runtime import open_session

_MANY_ROWS = 64
_ROUNDS = 15
#: Calls of a round, fewer if they take longer.
_MAX_CALLS = 50
_ROUND_S = 0.005


def time_answers(upload: GraphClassifier, file: Path, inputs: Sequence[Array]) -> AnswerTime:
    """Time one row and up to 64 of `inputs`, one array (N, …) per input of the network."""
    graph = upload.graph()
    graph.prune([upload.logits_name])
    uploaded_file = graph.to_model([ValueInfoProto(name=upload.logits_name)]).SerializeToString()
    sessions = [open_session(source, threads=1) for source in (uploaded_file, file)]
    first = [np.asarray(array[:_MANY_ROWS], spec.dtype) for spec, array in zip(upload.inputs, inputs, strict=True)]
    rows = {spec.name: array for spec, array in zip(upload.inputs, first, strict=True)}
    (uploaded, calibrated), (uploaded_many, calibrated_many) = (
        _in_turn(sessions, {name: array[:count] for name, array in rows.items()}) for count in (1, _MANY_ROWS)
    )
    return AnswerTime(
        one_row_us=calibrated,
        one_row_uploaded_us=uploaded,
        many_rows=len(first[0]),
        many_rows_us=calibrated_many,
        many_rows_uploaded_us=uploaded_many,
    )


def _in_turn(sessions: Sequence[ort.InferenceSession], rows: Mapping[str, Array]) -> list[float]:
    """Microseconds of each session: the median over rounds of the median of its calls."""
    slowest = max(_seconds(session, rows, 3) for session in sessions)  # the first calls allocate
    calls = max(1, min(_MAX_CALLS, int(_ROUND_S / slowest)))
    rounds = [[_seconds(session, rows, calls) for session in sessions] for _ in range(_ROUNDS if slowest < 0.1 else 3)]
    return [round(1e6 * median(taken), 1) for taken in zip(*rounds, strict=True)]


def _seconds(session: ort.InferenceSession, rows: Mapping[str, Array], calls: int) -> float:
    taken = []
    for _ in range(calls):
        began = time.perf_counter()
        session.run(None, rows)
        taken.append(time.perf_counter() - began)
    return median(taken)
