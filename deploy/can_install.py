"""A check that FedLAS can be installed here: `make` asks before minutes are spent. Any Python 3 understands this file.

    python3 deploy/can_install.py .venv 3      # the environment, and how many GB its libraries need

Where the environment is there already, its own Python runs this, and it is asked what it holds.
"""

from __future__ import annotations

import glob
import os
import shutil
import sys

MIN_PYTHON = (3, 11)
#: With the PyTorch that pip takes for Linux, which brings CUDA: 3.2 GB of files, and 6.2 GB that they become.
CUDA_GB = 10
#: Either is left by make where the libraries are there: an update needs little room.
_STAMPS = (".standalone", ".installed")


def obstacles(
    python: tuple[int, ...], free_gb: float, needed_gb: float, *, has_gpu_build: bool, venv: str
) -> list[str]:
    """A sentence with its remedy for each."""
    found = []
    if python < MIN_PYTHON:
        again = f"rm -rf {venv} && make" if os.path.exists(venv) else "make"
        found.append(
            f"this is Python {'.'.join(map(str, python))} ({sys.executable}), and FedLAS needs 3.11 or newer: "
            f"name one, as in `{again} demo PYTHON=python3.11`"
        )
    if free_gb < needed_gb:
        found.append(
            f"{free_gb:.1f} GB are free where {venv} would be ({os.path.abspath(venv)}), and {needed_gb:g} GB are "
            "needed: make room, or clone to another disk"
        )
    if has_gpu_build:
        found.append(
            f"onnxruntime-gpu is installed in {venv}, and onnxruntime, which would come now, overwrites its files: "
            f"{venv}/bin/python -m pip uninstall -y onnxruntime-gpu onnxruntime, then the same again; or keep it and "
            f"install by hand: {venv}/bin/python -m pip install --editable '.[standalone-gpu]'"
        )
    return found


def note(free_gb: float, *, has_pytorch: bool, venv: str) -> str:
    """A sentence if there is room for one build of PyTorch and not for the other; make chooses neither."""
    if has_pytorch or free_gb >= CUDA_GB or not sys.platform.startswith("linux"):
        return ""
    return (
        f"{free_gb:.1f} GB are free, and pip's own PyTorch for Linux, which brings CUDA, needs {CUDA_GB} while it is "
        f"installed. The build without CUDA takes 2: {sys.executable} -m venv {venv} && {venv}/bin/pip install torch "
        "--index-url https://download.pytorch.org/whl/cpu, and then the same again"
    )


def _free_gb(venv: str) -> float:
    if any(os.path.exists(os.path.join(venv, stamp)) for stamp in _STAMPS):
        return float("inf")
    return shutil.disk_usage(os.path.dirname(os.path.abspath(venv))).free / 1e9


def _has_gpu_build(venv: str) -> bool:
    """True where this is the environment's Python and it finds the GPU build of ONNX Runtime."""
    if os.path.realpath(sys.prefix) != os.path.realpath(venv):
        return False
    from importlib.metadata import distributions  # Python 3.8

    return any(one.metadata["Name"] == "onnxruntime-gpu" for one in distributions())


def main(venv: str, needed_gb: str) -> int:
    """Print what stands in the way; the exit code says whether anything does."""
    python = tuple(sys.version_info[:3])
    gpu_build = python >= MIN_PYTHON and _has_gpu_build(venv)
    free_gb = _free_gb(venv)
    found = obstacles(python, free_gb, float(needed_gb), has_gpu_build=gpu_build, venv=venv)
    has_pytorch = bool(glob.glob(os.path.join(venv, "lib", "python*", "site-packages", "torch")))
    for line in found or filter(None, [note(free_gb, has_pytorch=has_pytorch, venv=venv)]):
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
