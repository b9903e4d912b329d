"""KServe's client, unchanged, in an environment of its own under `.venv/clients/`, where this file runs as a script."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

Json = dict[str, Any]

#: The second only spares pip the search for it: later ones need a protobuf that the first does not allow.
REQUIREMENTS = ("kserve==0.21.0", "grpcio-tools<1.82")
_MAKE_SECONDS = 240
_CALL_SECONDS = 60


def kserve(base_url: str, calls: list[Json]) -> list[Json]:
    """The result or error of KServe's `InferenceRESTClient` for each call, one after the other.

    A call is `{"call": name, "model": …}`; for `infer` also `inputs` (each name, datatype, values and whether binary),
    `outputs` (each name and parameters), `parameters` and `id`. An answer is `{"value": …}`, or `{"error", "status"}`;
    the value of `infer` is id, model and outputs by name, each datatype, shape and values (flat, as the client has it).
    """
    request = json.dumps({"base_url": base_url, "calls": calls})
    done = subprocess.run(
        [_python(), "-W", "ignore", __file__],
        input=request,
        capture_output=True,
        text=True,
        timeout=_CALL_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[Json] = json.loads(done.stdout)
    return answers


def _python() -> Path:
    """The interpreter of the environment, which is made if it is not there; parallel tests wait for the first."""
    import fcntl

    name = hashlib.sha256(" ".join((sys.version, *REQUIREMENTS)).encode()).hexdigest()[:16]
    folder = Path(sys.prefix) / "clients" / name
    python, made = folder / "bin" / "python", folder / ".made"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # begun by somebody who was ended
            venv.create(folder, with_pip=False, symlinks=True)
            _share_ours(python)
            _install(python)
            made.touch()
    return python


def _share_ours(python: Path) -> None:
    """Packages of ours that will do need not be fetched again: only what differs is installed."""
    path = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", path], capture_output=True, text=True, check=True).stdout.strip()
    Path(own, "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")


def _install(python: Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install"]
    done = subprocess.run(
        [*command, "--quiet", "--no-compile", *REQUIREMENTS],
        capture_output=True,
        text=True,
        timeout=_MAKE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"KServe's client cannot be installed: {done.stdout}{done.stderr}"


async def _answers(base_url: str, calls: list[Json]) -> list[Json]:
    from kserve import InferenceRESTClient, RESTConfig  # type: ignore[import-not-found]

    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        return [await _answer(client, base_url, call) for call in calls]


async def _answer(client: Any, base_url: str, call: Json) -> Json:
    import httpx

    method = getattr(client, call["call"])
    try:
        if call["call"] != "infer":
            return {"value": await method(base_url, *([call["model"]] if "model" in call else []))}
        return {"value": _read(await method(base_url, _request(call), model_name=call["model"]))}
    except httpx.HTTPStatusError as error:
        return {"error": str(error), "status": error.response.status_code}


def _request(call: Json) -> Any:
    import numpy as np
    from kserve import InferInput, InferRequest
    from kserve.protocol.infer_type import RequestedOutput
    from kserve.utils.numpy_codec import to_np_dtype  # type: ignore[import-not-found]

    inputs = []
    for item in call["inputs"]:
        values = np.array(item["values"], dtype=to_np_dtype(item["datatype"]))
        tensor = InferInput(item["name"], list(values.shape), item["datatype"])
        tensor.set_data_from_numpy(values, binary_data=item["binary"])
        inputs.append(tensor)
    outputs = [RequestedOutput(item["name"], item.get("parameters")) for item in call.get("outputs", [])]
    return InferRequest(
        call["model"], inputs, request_id=call.get("id"), parameters=call.get("parameters"), request_outputs=outputs
    )


def _read(response: Any) -> Json:
    outputs = {
        output.name: {"datatype": output.datatype, "shape": output.shape, "values": output.as_numpy().ravel().tolist()}
        for output in response.outputs
    }
    return {"id": response.id, "model": response.model_name, "outputs": outputs}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps(asyncio.run(_answers(asked["base_url"], asked["calls"]))))
