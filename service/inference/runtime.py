"""ONNX Runtime as it really is on this machine: one package of it, and the device that a session really runs on."""

from __future__ import annotations

import base64
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

#: What a session raises for rows that fit the declared shapes and still cannot be computed.
REFUSALS = (Fail, InvalidArgument, RuntimeException)
#: y = Identity(x): small enough to try a session with.
_PROBE = base64.b64decode("CAg6NwoQCgF4EgF5IghJZGVudGl0eRIBcFoPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0=")


def check_single_runtime() -> None:
    """Raise RuntimeError if both builds of ONNX Runtime are installed: they overwrite each other's files."""
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    if len(found) > 1:
        raise RuntimeError(
            "both onnxruntime and onnxruntime-gpu are installed and break each other; "
            "run: pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
        )


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


@cache
def providers() -> tuple[str, ...]:
    """What a session really runs on here, tried once; `get_available_providers` names CUDA even where there is none."""
    wanted = [name for name in ("CUDAExecutionProvider",) if name in ort.get_available_providers()]
    ort.set_default_logger_severity(4)  # a missing CUDA is no error: the answer says what is there
    session = ort.InferenceSession(_PROBE, session_options(), providers=[*wanted, "CPUExecutionProvider"])
    return tuple(session.get_providers())


def session_options(*, threads: int = 1) -> ort.SessionOptions:
    """Options of every session: quiet, and with as many threads as the caller may use."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what a failure means is said by the exception
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return options


def open_session(path: str, *, threads: int) -> ort.InferenceSession:
    """Open a file that we wrote."""
    return ort.InferenceSession(path, session_options(threads=threads), providers=list(providers()))


def refusal(error: Exception) -> str:
    """What was wrong with the rows, without the runtime's preamble."""
    return str(error).rpartition("Status Message:")[2].strip()
