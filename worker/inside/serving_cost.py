"""The serving cost of a served copy, measured on made-up rows inside the sandbox: how long its largest batch takes.

Also the time of an answer: the calibrated file beside the uploaded network, in plain ONNX Runtime on one thread.

Values may decide how long a graph runs (denormal numbers, sorted rows, limits that are reached), so that zeros alone
say nothing; what the model refuses, tokens beyond its vocabulary say, is left out.
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime as ort

from fedlas.contract.profiles import AnswerTime, MeasuredBatch, ServingCost, TensorSpec
from fedlas.data.dataset import Array
from fedlas.importers import GraphClassifier
from fedlas.importers.onnx.cost.serving_cost import serving_cost
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.runtime import open_session as open_plainly
from service.predict.engine.session import open_session

#: Makes an array of this shape and type.
Fill = Callable[[Sequence[int], str], Array]

#: Seconds of all runs together, of the last one, and of one row that is still made longer.
_ALL_S = 2.0
_LAST_S = 0.5
_LONGER_S = 0.25
_MAX_ROWS = 256
_MAX_LENGTH = 512
#: Memory of a batch while it is measured; an inspection may take 768 MiB.
_MAX_BYTES = 2**27
#: Sizes below are channels or the like, which do not become longer.
_MIN_LENGTH = 8
_WHOLE = (2**63 - 1, 2**31 - 1, 30_000, 1_000, 100, 1)

#: Rows of the larger timed batch; rounds in which file and upload take turns; calls in a round, fewer if they are slow.
_MANY_ROWS = 64
_ROUNDS = 15
_MAX_CALLS = 50
_ROUND_S = 0.005
_SLOW_S = 0.1


def measured(path: Path, inputs: Sequence[TensorSpec], lengths: Mapping[str, int], cost: ServingCost) -> ServingCost:
    """The cost with the largest batch that was run; where its rows are longer than those counted, they are counted."""
    measuring = _Measuring(path, inputs, lengths, cost)
    largest = measuring.run()
    if measuring.lengths != lengths:
        cost = serving_cost(Graph.from_model(onnx.load_model(path)), inputs, measuring.lengths)
    return cost.changed(measured=largest)


class _Measuring:
    def __init__(self, path: Path, inputs: Sequence[TensorSpec], lengths: Mapping[str, int], cost: ServingCost) -> None:
        self._session = open_session(str(path), threads=1, on_cpu=True)  # as an API without a card runs it
        self._inputs, self.lengths, self._cost = inputs, dict(lengths), cost
        self._most_rows = max(1, min(_MAX_ROWS, _MAX_BYTES // max(1, cost.peak_row_bytes)))
        self._deadline = time.perf_counter() + _ALL_S

    def run(self) -> MeasuredBatch | None:
        """Longer rows first, then more of them, each time twice as many."""
        kinds = self._accepted(self.lengths)
        if not kinds:
            return None
        self._lengthen(kinds)
        best: MeasuredBatch | None = None
        rows = 1
        while rows <= self._most_rows and time.perf_counter() < self._deadline:
            times = {name: self._seconds(make, rows, self.lengths) for name, make in kinds.items()}
            taken = {name: seconds for name, seconds in times.items() if seconds is not None}
            if not taken:
                break
            slowest = max(taken, key=lambda name: taken[name])
            length, seconds = max([1, *self.lengths.values()]), round(taken[slowest], 6)
            best = MeasuredBatch(rows=rows, length=length, seconds=seconds, values=slowest)
            if taken[slowest] > _LAST_S:
                break
            rows *= 2
        return best

    def _accepted(self, lengths: Mapping[str, int]) -> dict[str, Fill]:
        """The kinds of values that the model takes; of whole numbers the largest that it takes is one."""
        accepted: dict[str, Fill] = {}
        for name, make in _kinds():
            if name.split(" ")[0] not in {known.split(" ")[0] for known in accepted} and (
                self._seconds(make, 1, lengths) is not None
            ):
                accepted[name] = make
        return accepted

    def _lengthen(self, kinds: Mapping[str, Fill]) -> None:
        """Free dimensions are doubled while a row takes little and the model takes it."""
        row_bytes = self._cost.peak_row_bytes
        while time.perf_counter() < self._deadline:
            longer = {name: size * 2 if size >= _MIN_LENGTH else size for name, size in self.lengths.items()}
            row_bytes *= 2 ** max([2, *map(round, self._cost.powers.values())])
            if longer == self.lengths or max(longer.values()) > _MAX_LENGTH or row_bytes > _MAX_BYTES:
                return
            times = [self._seconds(make, 1, longer) for make in kinds.values()]
            if any(seconds is None or seconds > _LONGER_S for seconds in times):
                return
            self.lengths = longer
            self._most_rows = max(1, min(_MAX_ROWS, _MAX_BYTES // max(1, row_bytes)))

    def _seconds(self, make: Fill, rows: int, lengths: Mapping[str, int]) -> float | None:
        given = {
            spec.name: make([rows, *(n if isinstance(n, int) else lengths[n] for n in spec.shape[1:])], spec.dtype)
            for spec in self._inputs
        }
        started = time.perf_counter()
        try:
            self._session.run(None, given)
        except Exception:  # ONNX Runtime raises a class of its own for every kind of refusal
            return None
        return time.perf_counter() - started


def _kinds() -> Iterator[tuple[str, Fill]]:
    """Kinds of values by name; of several with the same first word the first that is taken counts."""
    yield "zeros", lambda shape, dtype: np.zeros(shape, dtype)
    yield "random", _random
    yield "denormal", lambda shape, dtype: _filled(shape, dtype, tiny=True, whole=1)
    for whole in _WHOLE:
        yield f"largest {whole}", lambda shape, dtype, n=whole: _filled(shape, dtype, whole=n)  # type: ignore[misc]
    for whole in _WHOLE:
        yield f"least {whole}", lambda shape, dtype, n=whole: _filled(shape, dtype, sign=-1, whole=n)  # type: ignore[misc]


def _random(shape: Sequence[int], dtype: str) -> Array:
    generator = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return generator.standard_normal(shape, np.float32).astype(dtype)
    values = generator.integers(0, 2, shape)
    values[..., :1] = 1  # a mask of nothing but zeros is no row
    return values.astype(dtype)


def _filled(shape: Sequence[int], dtype: str, *, sign: int = 1, whole: int = 1, tiny: bool = False) -> Array:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        floats = np.finfo(kind)
        return np.full(shape, sign * (floats.smallest_subnormal if tiny else floats.max), kind)
    if kind.kind == "b":
        return np.ones(shape, kind)
    info = np.iinfo(kind)
    return np.full(shape, max(info.min, min(info.max, sign * whole)), kind)


def time_answers(upload: GraphClassifier, file: Path, inputs: Sequence[Array]) -> list[AnswerTime]:
    """Time one row and up to 64 of `inputs`, one array (N, …) per input of the network."""
    graph = upload.graph()
    graph.prune([upload.logits_name])
    uploaded_file = graph.to_model([onnx.ValueInfoProto(name=upload.logits_name)]).SerializeToString()
    sessions = [open_plainly(source, threads=1) for source in (uploaded_file, file)]
    first = [np.asarray(array[:_MANY_ROWS], spec.dtype) for spec, array in zip(upload.inputs, inputs, strict=True)]
    rows = {spec.name: array for spec, array in zip(upload.inputs, first, strict=True)}
    times = []
    for count in (1, len(first[0])):
        uploaded_us, us = _in_turn(sessions, {name: array[:count] for name, array in rows.items()})
        times.append(AnswerTime(rows=count, us=us, uploaded_us=uploaded_us))
    return times


def _in_turn(sessions: Sequence[ort.InferenceSession], rows: Mapping[str, Array]) -> list[float]:
    """Microseconds of each session: the median over rounds of the median of its calls."""
    slowest = max(_seconds(session, rows, 3) for session in sessions)  # the first calls allocate
    calls = max(1, min(_MAX_CALLS, int(_ROUND_S / slowest)))
    rounds = [
        [_seconds(session, rows, calls) for session in sessions] for _ in range(_ROUNDS if slowest < _SLOW_S else 3)
    ]
    return [round(1e6 * median(taken), 1) for taken in zip(*rounds, strict=True)]


def _seconds(session: ort.InferenceSession, rows: Mapping[str, Array], calls: int) -> float:
    return median(timeit.repeat(lambda: session.run(None, rows), number=1, repeat=calls))
