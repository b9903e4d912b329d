"""What the Python client adds to a request: predictions of a single row, beside httpx alone, in turn.

    OMP_NUM_THREADS=1 python -m benchmarks.client --requests 3000

One `fedlas api` process on this machine answers all of them, so that the wall clock has the network's least share and
the client's largest. The CPU time is that of the asking process alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from statistics import median

import httpx
import numpy as np

from benchmarks.api_process import running_api
from fedlas.client import Client
from tests.helpers.publishing import publish
from tests.helpers.served import scaling

_COLUMNS = 64
#: Each way asks so often before the next has its turn.
_BLOCK = 50

Way = Callable[[], float]


def ways(url: str, model: str) -> Mapping[str, Way]:
    """Ways to the confidence of one row; the first of each pair is what httpx alone takes."""
    array = np.random.default_rng(0).normal(size=(1, _COLUMNS)).astype(np.float32)
    row = array.tolist()
    bare, client = httpx.Client(timeout=60), Client(url)
    path = f"{url}/v1/models/{model}/predict"

    def httpx_list() -> float:
        answer = bare.post(path, json={"inputs": row}).raise_for_status()
        return float(answer.json()["predictions"][0]["confidence"])

    def httpx_array() -> float:
        answer = bare.post(path, json={"inputs": array.tolist()}).raise_for_status()
        return float(np.array([item["confidence"] for item in answer.json()["predictions"]])[0])

    return {
        "httpx, a list": httpx_list,
        "client, a list": lambda: float(client.predict(model, row).confidences[0]),
        "httpx, an array": httpx_array,
        "client, an array": lambda: float(client.predict(model, array).confidences[0]),
    }


def measure(found: Mapping[str, Way], requests: int) -> dict[str, tuple[float, float]]:
    """Microseconds of wall clock (median) and of CPU (mean) for each request of each way."""
    wall: dict[str, list[float]] = {name: [] for name in found}
    cpu: dict[str, float] = dict.fromkeys(found, 0.0)
    for way in found.values():
        assert way() == found["httpx, a list"]()
    for _ in range(requests // _BLOCK):
        for name, way in found.items():
            began_cpu = time.process_time()
            for _ in range(_BLOCK):
                began = time.perf_counter()
                way()
                wall[name].append(time.perf_counter() - began)
            cpu[name] += time.process_time() - began_cpu
    return {name: (1e6 * median(wall[name]), 1e6 * cpu[name] / len(wall[name])) for name in found}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000)
    options = parser.parse_args()
    with running_api("sqlite") as api:
        names = [str(index) for index in range(_COLUMNS)]
        shape = {"name": "x", "dtype": "float32", "shape": ["N", _COLUMNS]}
        profile = {"inputs": [shape], "num_classes": _COLUMNS, "class_names": names}
        model = publish(api.registry, "rows", scaling(2.0, columns=_COLUMNS), **json.loads(json.dumps(profile)))
        found = measure(ways(f"http://127.0.0.1:{api.port}", model), options.requests)
    print(f"| one row, {options.requests} times | µs, median | of httpx | CPU µs | of httpx |\n|---|---|---|---|---|")
    for name, (wall, cpu) in found.items():
        base_wall, base_cpu = found[name.replace("client", "httpx")]
        print(f"| {name} | {wall:.0f} | {wall / base_wall:.2f} | {cpu:.0f} | {cpu / base_cpu:.2f} |")


if __name__ == "__main__":
    main()
