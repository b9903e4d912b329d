"""What an ordinary model's clients notice of two hostile ones, whose rows cost far more than their model's zeros.

    python -m benchmarks.serving.beside
    python -m benchmarks.serving.beside --checkout ../before

The ordinary client sends 256 rows of 784 numbers as binary tensors, one request after the other, alone and then beside
two clients of two models that multiply matrices whose side a row says. Inspection limits such graphs; here their
served copies are put into the registry without it, as if it had been deceived. Latencies in ms, client's side.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np

from benchmarks.serving import load, models, ours
from benchmarks.serving.environments import ROOT
from benchmarks.serving.fleet import Json, round_to
from benchmarks.serving.ours import AUTHORIZATION, Fedlas
from benchmarks.serving.payloads import Request
from service.registry.registry import Registry
from service.settings import ServiceSettings
from tests.helpers.publishing import publish
from tests.helpers.served import toiling

#: Products of matrices of this side take about half a second together.
_STEPS, _SIDE = 20, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose service; default: this one's")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    args = parser.parse_args()
    print(json.dumps(measured(args.checkout.absolute(), args.seconds), indent=1))


def measured(checkout: Path, seconds: float) -> Json:
    """Latencies alone and beside the two, and the ratio of the medians."""
    model = models.mnist()
    with ours.serving(checkout=checkout) as service:
        (model_id,) = service.upload([model.content])
        with closing(Registry.open(ServiceSettings(data_dir=service.data_dir))) as registry:
            hostile = [publish(registry, f"hostile-{number}", toiling(_STEPS + number)) for number in range(2)]
        request = ours.infer_binary(model_id, model.rows)
        alone = _latencies(service, request, seconds)
        with _busy(service, hostile) as answered:
            time.sleep(2)
            beside = _latencies(service, request, seconds)
    ratio = round_to(beside["p50_ms"] / alone["p50_ms"])
    return {"alone": alone, "beside two hostile clients": beside, "ratio of p50": ratio, "hostile answers": answered}


def _latencies(service: Fedlas, request: Request, seconds: float) -> Json:
    times: list[float] = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        load.once(service.running.port, request)
        times.append(1000 * (time.perf_counter() - began))
    return {f"p{share}_ms": round_to(float(np.percentile(times, share))) for share in (50, 90, 99)} | {"n": len(times)}


@contextmanager
def _busy(service: Fedlas, hostile: list[str]) -> Iterator[dict[int, int]]:
    """A client for each of these models, asking again and again; counts of what they are answered."""
    over, answered = threading.Event(), dict[int, int]()

    def ask(model_id: str) -> None:
        url = f"http://127.0.0.1:{service.running.port}/v1/models/{model_id}/predict"
        with httpx.Client(headers=AUTHORIZATION, timeout=60) as client:
            while not over.is_set():
                with suppress(httpx.TransportError):
                    status = client.post(url, json={"inputs": [[float(_SIDE), 0.0]]}).status_code
                    answered[status] = answered.get(status, 0) + 1

    threads = [threading.Thread(target=ask, args=(model_id,)) for model_id in hostile]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        over.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
