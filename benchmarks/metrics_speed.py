"""Times the whole metrics report: three models evaluated and two compared, 10,000 rows, 100 classes, 1,000 resamples.

Run it with `python benchmarks/metrics_speed.py`.
"""

from __future__ import annotations

import os
import time

import numpy as np

from fedlas.metrics import compare, evaluate

ROWS, CLASSES = 10_000, 100


def main() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(CLASSES, size=ROWS)
    logits = 1.5 * rng.normal(size=(ROWS, CLASSES))
    logits[np.arange(ROWS), targets] += 4
    models = {name: softmax(scale * logits) for name, scale in (("raw", 2.0), ("cooled", 1.0), ("tuned", 1.1))}

    begin, begin_cpu = time.perf_counter(), time.process_time()
    for name, probs in models.items():
        start = time.perf_counter()
        report = evaluate(probs, targets)
        print(f"evaluate {name:7s} {time.perf_counter() - start:5.2f} s  accuracy {report['accuracy'].value:.3f}")
    for other in ("raw", "cooled"):
        start = time.perf_counter()
        compare(models["tuned"], models[other], targets)
        print(f"compare tuned with {other:7s} {time.perf_counter() - start:5.2f} s")
    wall, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    print(f"whole report {wall:.2f} s ({cpu:.2f} s of CPU) on {os.cpu_count()} cores (target: under 10 s)")


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return probs


if __name__ == "__main__":
    main()
