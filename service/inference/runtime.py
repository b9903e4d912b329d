"""ONNX Runtime on this machine: the device that sessions run on, and the shared arena."""

from __future__ import annotations

import base64
from functools import cache

import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from fedlas.preprocessing import usable_cores

_MOST_CORES = 1024
#: What a session raises for rows that fit the declared shapes and still cannot be computed.
REFUSALS = (Fail, InvalidArgument, RuntimeException)
#: y = Identity(x): small enough to try a session with.
_PROBE = base64.b64decode("CAg6NwoQCgF4EgF5IghJZGVudGl0eRIBcFoPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0=")
_ONE_ROW = np.zeros(1, dtype=np.float32)
#: A session over the shared arena, once there is one: the arena itself cannot be asked for anything.
_SHARED: list[ort.InferenceSession] = []


def prepare(*, arena_bytes: int = 0) -> None:
    """Determine once, before any request and in one thread, the device of sessions, and make what they share.

    `arena_bytes`: what the tensors of all runs may take together, 0 for no limit; the first call of a process decides.
    """
    providers()
    _share_arena(arena_bytes)


@cache
def providers() -> tuple[str, ...]:
    """The providers that a session really has, tried once; `get_available_providers` names CUDA where there is none."""
    wanted = [name for name in ("CUDAExecutionProvider",) if name in ort.get_available_providers()]
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


def open_session(path: str, *, threads: int, shared_arena: bool = False, spinning: bool = True) -> ort.InferenceSession:
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
    return ort.InferenceSession(path, options, providers=[_tuned(name) for name in providers()])


def _tuned(provider: str) -> str | tuple[str, dict[str, str]]:
    """By default CUDA tries all convolution algorithms for every new batch size, which takes seconds."""
    if provider == "CUDAExecutionProvider":
        return provider, {"cudnn_conv_algo_search": "HEURISTIC"}
    return provider


def spare_runs(*, processes: int, threads: int) -> int:
    """How many batches of so many threads one of `processes` may run at once; a core is left to its event loop."""
    return max(1, (usable_cores(_MOST_CORES) // processes - 1) // threads)


def refusal(error: Exception) -> str:
    """What was wrong with the rows, without the runtime's preamble."""
    return str(error).rpartition("Status Message:")[2].strip()
