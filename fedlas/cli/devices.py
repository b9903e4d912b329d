"""The devices that ONNX Runtime and PyTorch really compute on, found by computing: a process of `fedlas doctor`.

`python -m fedlas.cli.devices` writes what it finds as lines of JSON. Libraries that do not fit this machine may bring
it down.
"""

from __future__ import annotations

import base64
import json
import os
import re
import warnings
from collections.abc import Iterator

from fedlas.cli.doctor import Line, collected, said
from fedlas.extras import cuda_remedy, has_gpu, installed

#: y = x @ x for a float matrix of 2 by 2.
_GRAPH = base64.b64decode(
    "CAg6QAoRCgF4CgF4EgF5IgZNYXRNdWwSAWdaEwoBeBIOCgwIARIICgIIAgoCCAJiEwoBeRIOCgwIARIICgIIAgoCCAJCBAoAEA0="
)
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_MATRIX = [[1.0, 2.0], [3.0, 4.0]]
_SQUARE = [[7.0, 10.0], [15.0, 22.0]]


def onnx_runtime() -> Iterator[Line]:
    """The provider that computed a tiny graph, of those that predictions ask for."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import numpy as np
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    offered = [name for name in (_CUDA, _CPU) if name in ort.get_available_providers()]
    session = ort.InferenceSession(_GRAPH, providers=offered)
    squared = session.run(None, {"x": np.array(_MATRIX, dtype=np.float32)})[0].tolist()
    used = session.get_providers()[0]  # a session leaves out those whose libraries are missing
    build = "onnxruntime-gpu" if installed("onnxruntime-gpu") else "onnxruntime"
    computed = f"{build} {installed(build) or 'of unknown origin'}: a session computed on {used}"
    yield _judged("ONNX Runtime", computed, squared, on_gpu=used == _CUDA, remedy=cuda_remedy())


def pytorch() -> Iterator[Line]:
    """The device that computed a product of matrices, of those that training asks for."""
    import torch

    with warnings.catch_warnings(record=True) as caught:  # PyTorch says in a warning why it cannot use a GPU
        warnings.simplefilter("always")
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    causes = [re.split(r"\.? Please |\.? \(Triggered", str(one.message))[0] for one in caught]
    squared = (torch.tensor(_MATRIX, device=device) @ torch.tensor(_MATRIX, device=device)).cpu().tolist()
    computed = f"{torch.__version__}: a product was computed on {_described(device)}"
    remedy = (
        "this build of PyTorch knows no CUDA: install one that does, see https://pytorch.org/get-started/locally"
        if torch.version.cuda is None
        else f"PyTorch is built for CUDA {torch.version.cuda}: update the driver, or install a build for the CUDA "
        "version that the driver supports, which nvidia-smi shows, see https://pytorch.org/get-started/locally"
    )
    cause = next((f": {one}" for one in causes if "CUDA" in one), "")
    yield _judged("PyTorch", computed, squared, on_gpu=device != "cpu", remedy=remedy, cause=cause)


def _described(device: str) -> str:
    import torch

    if device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        return f"{device}, {facts.name} with {facts.total_memory / 1024**3:.0f} GiB; {torch.cuda.device_count()} in all"
    return f"{device} with {torch.get_num_threads()} threads" if device == "cpu" else device


def _judged(
    name: str, computed: str, squared: list[list[float]], *, on_gpu: bool, remedy: str, cause: str = ""
) -> Line:
    if squared != _SQUARE:
        return said(name, "fail", f"{computed}, and the result was wrong: {squared}")
    if has_gpu() and not on_gpu:
        return said(name, "warn", f"{computed}, although this machine has a GPU{cause}", remedy)
    return said(name, "ok", computed)


def main() -> None:
    """Try both; what libraries print is no finding."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for topic, check in (("ONNX Runtime", onnx_runtime), ("PyTorch", pytorch)):
        for line in collected(topic, check, "library"):
            answers.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
