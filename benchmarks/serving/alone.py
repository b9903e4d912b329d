"""The figures about ours against ONNX Runtime alone and against itself: binary tensors, and what extras cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.data.common import Array
from benchmarks.serving import models, ours
from benchmarks.serving.fleet import Contender, Json, in_turn, round_to, summed_up
from benchmarks.serving.models import ServedModel
from benchmarks.serving.payloads import Failed
from benchmarks.serving.trials import Plan

_SLICES = 100


def binary_rows(plan: Plan, model: ServedModel) -> Json:
    """Rows per second in binary tensors of 256 rows, over 1, 2 and 4 connections, against ONNX Runtime alone.

    Four are the figure: enough that a request waits whenever one is done. With one, the service waits for the client.
    Alone is a loop in this process on one thread, run before every measurement of ours while the service is frozen.
    """
    rows = model.rows
    found: dict[str, list[float]] = {"alone": [], "1": [], "2": [], "4": []}
    with ours.serving() as service:
        (model_id,) = service.upload([model.content])
        request = ours.infer_binary(model_id, rows)
        contender = Contender("fedlas", service.running, request).checked(model.probabilities(rows))
        for _ in range(plan.rounds):
            for connections in (1, 2, 4):
                service.running.freeze()
                found["alone"].append(_alone(model, rows, plan.seconds))
                service.running.thaw()
                contender.full(1, connections=connections)
                rate = contender.full(plan.seconds, connections=connections)["per_second"]
                found[str(connections)].append(rate * len(rows))
    medians = {name: round_to(float(np.median(rates))) for name, rates in found.items()}
    ratios = {name: round_to(medians[name] / medians["alone"]) for name in ("1", "2", "4")}
    return {"rows_per_second": medians, "ratio": ratios, "goal": 0.9}


def extras(plan: Plan) -> Json:
    """The cost of confidence, top-k and thresholds: time per request over that of plain inference, minus one."""
    found: Json = {}
    for model in (models.digits(), models.mnist()):
        with ours.serving() as service:
            (model_id,) = service.upload([model.content])
            row, rows = model.rows[:1], model.rows
            asked = {
                "infer, probabilities": ours.infer(model_id, row),
                "infer, default outputs": ours.infer(model_id, row, outputs=()),
                "predict": ours.predict(model_id, row),
                "predict, top_k, abstain_below": ours.predict(model_id, row, top_k=3, abstain_below=0.8),
                "256 rows binary, probabilities": ours.infer_binary(model_id, rows),
                "256 rows binary, default outputs": ours.infer_binary(
                    model_id, rows, outputs=("probabilities", "confidence", "label")
                ),
            }
            contenders = [Contender(name, service.running, request) for name, request in asked.items()]
            for contender in contenders:
                contender.checked(model.probabilities(rows if "binary" in contender.name else row))
            table = summed_up(in_turn(contenders, lambda one: one.full(plan.seconds), rounds=plan.rounds), "per_second")
            graph = _served_graph(service.data_dir)
        rates = {name: row["per_second"]["median"] for name, row in table.items()}
        plain, plain_rows = rates["infer, probabilities"], rates["256 rows binary, probabilities"]
        overhead = {
            name: round_to((plain_rows if "binary" in name else plain) / rate - 1)
            for name, rate in rates.items()
            if not name.endswith(", probabilities")
        }
        found[model.name] = {"requests": table, "overhead": overhead, "graph_us": _graph_costs(model, graph)}
    return {**found, "goal": 0.05}


def _served_graph(data_dir: Path) -> ort.InferenceSession:
    """The copy of the uploaded file that is served: the one stored file that computes a confidence."""
    for path in (data_dir / "artifacts").rglob("*"):
        if path.is_file() and path.read_bytes()[:1] == b"\x08":  # an ONNX file begins with its format's version
            session = models.opened(path.read_bytes())
            if "confidence" in {output.name for output in session.get_outputs()}:
                return session
    raise Failed(f"no served copy under {data_dir / 'artifacts'}")


def _graph_costs(model: ServedModel, served: ort.InferenceSession) -> Json:
    """Microseconds per batch in ONNX Runtime alone: the uploaded graph, and the served one with all that predicts."""
    name = served.get_inputs()[0].name
    found: Json = {}
    for size in (1, 256):
        rows = model.rows[:size]
        ways: dict[str, Callable[[], object]] = {
            "uploaded": partial(model.session.run, ["probabilities"], {"x": rows}),
            "served": partial(served.run, ["logits", "probabilities", "confidence"], {name: rows}),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for way, run in [*ways.items()] * _SLICES:  # in turn and briefly, since other work shares the machine
            began = time.perf_counter()
            for _ in range(256 // size):
                run()
            times[way].append(1e6 * (time.perf_counter() - began) * size / 256)
        found[f"batch of {size}"] = {way: round_to(float(np.median(some))) for way, some in times.items()}
    return found


def _alone(model: ServedModel, rows: Array, seconds: float) -> float:
    """Rows per second of a loop that does nothing else."""
    model.probabilities(rows)
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        model.probabilities(rows)
        count += len(rows)
    return count / passed
