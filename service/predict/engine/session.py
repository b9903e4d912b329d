"""An open model: an ONNX Runtime session over one stored file, and an estimate of how long its batches take.

All sessions of a process share one arena, and run on the device that this machine really has.
"""

from __future__ import annotations

import base64
import logging
import re
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from fedlas.extras import cuda_remedy, has_gpu
from fedlas.preprocessing import usable_cores
from service.ipc.run_marks import RunMark, RunMarks
from service.predict.engine.profile import UNKNOWN, RunLimits
from service.process_memory import lacked_memory
from service.registry.errors import InvalidRequest, Unavailable

_LOG = logging.getLogger(__name__)
_MAX_CORES = 1024
_CUDA = "CUDAExecutionProvider"
#: How CUDA and its libraries say that the device has failed, whatever the rows were.
_DEVICE_FAILURE = re.compile(r"\bCU[A-Z]+ failure \d+:")
#: Errors that a session raises for rows that fit the declared shapes and still cannot be computed: for example a token
#: that is not in the vocabulary, inputs that differ in length.
REFUSALS = (Fail, InvalidArgument, RuntimeException)
#: y = Identity(x): small enough to try a session with.
_PROBE = base64.b64decode("CAg6NwoQCgF4EgF5IghJZGVudGl0eRIBcFoPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0=")
_ONE_ROW = np.zeros(1, dtype=np.float32)
#: A session over the shared arena, once there is one: the arena itself cannot be asked for anything.
_SHARED: list[ort.InferenceSession] = []
#: Outputs of every file that is served; see the HTTP contract.
STANDARD_OUTPUTS = ("logits", "probabilities", "confidence", "features")
#: Names that outputs have in calibrated files of before 2026-11-30, which are served for ever.
_FORMER_NAMES = {"typicality": "familiarity"}
_WARM_ROWS = 16
_WARM_RUNS = 3
#: How far an estimate follows a batch that was slower, or quicker: other work on the machine makes many slower.
_FOLLOW_UP = 0.02
_FOLLOW_DOWN = 0.2
#: Where rows of zeros measure nothing: the assumed seconds of a batch and of a row, and how far one batch changes them.
_UNKNOWN_S = 1e-3
_FOLLOW_UNKNOWN = 0.5
#: How long a model that kept the event loop for much longer than it should have is run in threads.
_MISTRUSTED_S = 60.0
#: By default CUDA tries all convolution algorithms for every new batch size, which takes seconds, and rounds to TF32,
#: for which no threshold was fitted.
_TUNED = {_CUDA: {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}}
_NUMPY = {"float": np.float32, "double": np.float64, "float16": np.float16, "bool": np.bool_}


def prepare(*, arena_bytes: int = 0) -> None:
    """Determine once, before any request and in one thread, the device of sessions, and make what they share.

    A GPU that no session computes on is a warning in the log.

    `arena_bytes`: what the tensors of all runs may take together, 0 for no limit; the first call of a process decides.
    """
    provider = providers()[0]
    if provider != _CUDA and has_gpu():
        _LOG.warning("predictions run on %s, although this machine has a GPU: %s", provider, cuda_remedy())
    _share_arena(arena_bytes)


@cache
def providers() -> tuple[str, ...]:
    """The providers that a session really has, tried once; `get_available_providers` names CUDA where there is none."""
    wanted = [name for name in (_CUDA,) if has_gpu() and name in ort.get_available_providers()]
    if wanted:
        ort.preload_dlls()  # from their packages, which no path leads to
    ort.set_default_logger_severity(4)  # a missing CUDA is no error
    session = ort.InferenceSession(_PROBE, session_options(), providers=[*wanted, "CPUExecutionProvider"])
    return tuple(session.get_providers())


def session_options(*, threads: int = 1) -> ort.SessionOptions:
    """Options of every session: quiet, and with as many threads as the caller may use."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # the exception says what a failure means
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return options


def _share_arena(most_bytes: int = 0) -> None:
    """Make one arena for all sessions that ask for it: each alone would keep what its largest batch ever took."""
    if _SHARED:
        return
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(most_bytes, -1, -1, -1))
    options = session_options()
    options.add_session_config_entry("session.use_env_allocators", "1")
    _SHARED.append(ort.InferenceSession(_PROBE, options, providers=["CPUExecutionProvider"]))


def release_arena() -> None:
    """Give back what the shared arena holds and no run uses: an option of a run, in any session."""
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    for session in _SHARED:
        session.run(None, {"x": _ONE_ROW}, options)


def open_session(
    path: str, *, threads: int, shared_arena: bool = False, spinning: bool = True, on_cpu: bool = False
) -> ort.InferenceSession:
    """Open a file that we wrote.

    `shared_arena` is for processes that keep many open; without `spinning` threads that have nothing to do leave their
    cores to others.
    """
    options = session_options(threads=threads)
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if shared_arena:
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    chosen = ("CPUExecutionProvider",) if on_cpu else providers()
    return ort.InferenceSession(path, options, providers=[(name, _TUNED.get(name, {})) for name in chosen])


def former_names(session: ort.InferenceSession) -> dict[str, str]:
    """Outputs of this file by their names of today, where the file has other ones."""
    names = {output.name for output in session.get_outputs()}
    return {new: old for new, old in _FORMER_NAMES.items() if old in names and new not in names}


def spare_runs(*, processes: int, threads: int) -> int:
    """How many batches of so many threads one of `processes` may run at once; a core is left to its event loop."""
    return max(1, (usable_cores(_MAX_CORES) // processes - 1) // threads)


def refusal(error: Exception) -> str:
    return str(error).rpartition("Status Message:")[2].strip()


class OpenModel:
    """An ONNX Runtime session and the time it takes: about `fixed + per_row * rows` seconds, rows of length one.

    Attributes:
        size: bytes of the file, which is about what the session holds in memory.
        outputs: names of what the file computes.
        classes: columns of its probabilities; 0 where the file leaves them open and it has not run yet.
        limits: what its inspection has measured of its runs.
        binds: its inputs and outputs are bound, as on CUDA, where a run then waits for the device once.
    """

    def __init__(
        self, path: Path, *, threads: int = 1, limits: RunLimits = UNKNOWN, mark: RunMark | None = None
    ) -> None:
        self.size = path.stat().st_size
        self.limits = limits
        self._mark = mark or RunMarks().of("")
        under_way = self._mark.begin()
        try:
            self._session = open_session(str(path), threads=threads, shared_arena=True)
        finally:
            self._mark.end(under_way)
        widths = {output.name: (output.shape or [None])[-1] for output in self._session.get_outputs()}
        self._former = former_names(self._session)
        self.outputs = frozenset(widths.keys() | self._former.keys())
        classes = widths.get("probabilities")
        self.classes: int = classes if isinstance(classes, int) else 0
        self.provider: str = self._session.get_providers()[0]
        self.binds = self.provider == _CUDA
        if self.provider != (usual := providers()[0]):
            _LOG.warning("%s was opened on %s, since it could not be on %s", path.name, self.provider, usual)
        self.fixed = self.per_row = 0.0
        self._follow_up = _FOLLOW_UP if limits.sizes_follow_shapes else _FOLLOW_UNKNOWN
        self._mistrusted_until = 0.0
        self._free_axes = [
            (spec.name, axis)
            for spec in self._session.get_inputs()
            for axis, size in enumerate(spec.shape)
            if axis > 0 and not isinstance(size, int)
        ]

    def length(self, inputs: Mapping[str, np.ndarray]) -> int:
        """The longest free dimension of a row; 1 where none is free."""
        if not self._free_axes:
            return 1
        return max((int(inputs[name].shape[axis]) for name, axis in self._free_axes), default=1)

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], options: ort.RunOptions | None = None
    ) -> dict[str, np.ndarray]:
        """Run over rows; another thread may end the run between two nodes through the `options`.

        Raises InvalidRequest `inputs_refused` for rows that fit the shapes and cannot be computed, Unavailable
        `out_of_memory`, or the error of a device that fails.
        """
        names = [self._former.get(name, name) for name in outputs]
        under_way = self._mark.begin()
        try:
            if self.binds:
                binding = self._session.io_binding()
                for name, array in inputs.items():
                    binding.bind_cpu_input(name, np.ascontiguousarray(array))
                for name in names:
                    binding.bind_output(name, "cpu")
                self._session.run_with_iobinding(binding, options)
                results = binding.copy_outputs_to_cpu()
            else:
                results = self._session.run(names, inputs, options)
        except (*REFUSALS, RuntimeError) as error:  # bound runs raise RuntimeError alone
            if lacked_memory(error):
                raise Unavailable("out_of_memory", "there is not enough memory for these rows now") from error
            if _DEVICE_FAILURE.search(str(error)):
                raise
            message = f"the model cannot compute these rows: {refusal(error)}"
            raise InvalidRequest("inputs_refused", message, field="inputs") from error
        finally:
            self._mark.end(under_way)
        return dict(zip(outputs, results, strict=True))

    def cost(self, rows: int, length: int = 1) -> float:
        """About how many seconds so many rows of this length take in one batch."""
        return self.fixed + self.per_row * rows * self.limits.weight(length)

    def measured(self, rows: int, seconds: float, length: int = 1) -> None:
        seen = max(seconds - self.fixed, 0.0) / (rows * self.limits.weight(length))
        self.per_row += (seen - self.per_row) * (self._follow_up if seen > self.per_row else _FOLLOW_DOWN)

    def quick(self, rows: int, length: int, seconds: float) -> bool:
        """True where such a batch surely takes no more than these seconds: a run on the event loop cannot be ended."""
        return (
            self.limits.sizes_follow_shapes
            and self.cost(rows, length) <= seconds
            and time.monotonic() >= self._mistrusted_until
        )

    def mistrust(self) -> None:
        """A batch has held the event loop for much longer than estimated: run in threads for a while."""
        self._mistrusted_until = time.monotonic() + _MISTRUSTED_S

    def warm_up(self) -> None:
        """Run rows of zeros, so that the first request finds everything allocated, and measure them.

        A model that refuses zeros (as an attention mask, say) is measured by its first requests; so is one whose rows
        differ in length, since rows of length one say nothing about longer ones.
        """
        try:
            one, many = self._warm(1), self._warm(_WARM_ROWS)
        except InvalidRequest:
            one = many = 0.0
        self.per_row = max(many - one, 0.0) / (_WARM_ROWS - 1)
        self.fixed = max(one - self.per_row, 0.0)
        if self._free_axes or not many:
            self.fixed, self.per_row = max(self.fixed, _UNKNOWN_S), max(self.per_row, _UNKNOWN_S)
            self._follow_up = _FOLLOW_UNKNOWN

    def _warm(self, rows: int) -> float:
        inputs = {
            spec.name: np.zeros(
                [rows, *(size if isinstance(size, int) else 1 for size in spec.shape[1:])], element_type(spec)
            )
            for spec in self._session.get_inputs()
        }
        outputs = [name for name in STANDARD_OUTPUTS if name in self.outputs]
        times = []
        for _ in range(_WARM_RUNS):
            started = time.perf_counter()
            arrays = self.run(inputs, outputs)
            times.append(time.perf_counter() - started)
            if times[-1] > 1.0:
                break
        if "probabilities" in arrays:
            self.classes = arrays["probabilities"].shape[-1]
        return min(times)


def element_type(spec: object) -> np.dtype:
    """`tensor(float)` → float32."""
    name = str(getattr(spec, "type", "")).removeprefix("tensor(").removesuffix(")")
    return np.dtype(_NUMPY.get(name, name))
