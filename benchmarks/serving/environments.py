"""The virtual environments of the peers, made once and kept, since their dependencies conflict with ours; no server."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PEERS = ("litserve", "mlserver", "bentoml", "mosec")
ROOT = Path(__file__).parents[2]
_FOLDER = ROOT / ".venv" / "peers"
_NAMED = (*PEERS, "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "pydantic")
_ASK = """
import json, sys
from importlib.metadata import distributions
print(json.dumps({d.name.lower(): d.version for d in distributions()}))
"""


def python(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there or not of the present requirements."""
    folder = _FOLDER / peer
    requirements = _requirements(peer)
    stamp, wanted = folder / ".installed", hashlib.sha256(requirements.encode()).hexdigest()
    found = folder / "bin" / "python"
    if found.exists() and stamp.exists() and stamp.read_text() == wanted:
        return found
    print(f"installing {peer} into {folder}", flush=True)
    if not found.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(found), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", "/dev/stdin"]
    subprocess.run(pip, input=requirements, text=True, check=True)
    stamp.write_text(wanted)
    return found


def _requirements(peer: str) -> str:
    """The lines of the file, and the very ONNX Runtime that we use: the CPU is served by both of its packages."""
    return (Path(__file__).parent / f"requirements-{peer}.txt").read_text() + f"onnxruntime=={runtime_version()}\n"


def runtime_version() -> str:
    """The version of ONNX Runtime here, whichever package brings it."""
    for name in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise SystemExit("ONNX Runtime is missing: `make setup` installs it")


def versions(interpreter: Path) -> dict[str, str]:
    """The versions installed there, of the packages that matter here."""
    answer = subprocess.run([str(interpreter), "-c", _ASK], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(answer.stdout)
    runtime = {name: number for name, number in found.items() if name.startswith("onnxruntime")}
    return {name: found[name] for name in _NAMED if name in found} | runtime
