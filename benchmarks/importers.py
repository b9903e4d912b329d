"""How well and how fast ONNX files become trainable classifiers and come back; it knows no calibration.

    python -m benchmarks.importers [--only NAME ...] [--steps 10] [--output benchmarks/results/importers.json]

Every architecture of `tests/helpers/zoo.py` is exported by both of PyTorch's exporters; the light models of the
`onnx` package come as they are. Last, a training step of the imported network is timed against the same step of the
network that was exported (with its BatchNorm, as an export in training mode keeps it).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fedlas.importers import load_onnx
from tests.helpers.networks import export, images, trained_looking
from tests.helpers.zoo import ARCHITECTURES, as_row, measure

Json = dict[str, Any]
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
#: Parity, gradients and the written file, in the sense of `zoo.Figures`.
GOALS = {"parity": 1e-4, "probability_error": 1e-6, "with_gradient": 0.999}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="names of architectures or light models")
    parser.add_argument("--steps", type=int, default=10, help="timed training steps; 0 leaves them out")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/importers.json"))
    arguments = parser.parse_args()
    rows: list[Json] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in _all(Path(folder), set(arguments.only)):
            rows.append(row)
            _show(row)
            _write(arguments.output, rows, [])  # an interrupted run keeps what it has
        _write(arguments.output, rows, _training_steps(Path(folder), arguments.steps) if arguments.steps else [])


def _write(path: Path, rows: list[Json], steps: list[Json]) -> None:
    exported = [row for row in rows if "not_exported" not in row]
    passed = sum(row["passed"] for row in exported)
    result = {"machine": _machine(), "goals": GOALS, "files": len(exported), "passed": passed,
              "not_exported": len(rows) - len(exported), "graphs": rows, "training_steps": steps}  # fmt: skip
    path.write_text(json.dumps(result, indent=1) + "\n")


def _machine() -> Json:
    return {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
            "onnx": onnx.__version__, "python": platform.python_version()}  # fmt: skip


def _all(folder: Path, only: set[str]) -> Iterator[Json]:
    # The first import pays for loading PyTorch's shape functions, which a worker's process does once.
    _warm_up(folder)
    for name, (make, size) in ARCHITECTURES.items():
        for exporter in ("torchscript", "dynamo") if not only or name in only else ():
            yield _architecture(folder, name, make, size, exporter)
    for path in sorted(LIGHT.glob("*.onnx")):
        if not only or path.stem in only:
            target = folder / path.name
            target.write_bytes(path.read_bytes())
            yield _figures({"model": path.stem, "exporter": "onnx package"}, target, None)


def _warm_up(folder: Path) -> None:
    path = export(torchvision.models.resnet18(weights=None).eval(), images(1, 64), folder / "warm.onnx")
    measure(path)


def _architecture(folder: Path, name: str, make: Callable[[], nn.Module], size: int, exporter: str) -> Json:
    torch.manual_seed(0)
    network = trained_looking(make())
    row: Json = {"model": name, "exporter": exporter}
    path = folder / "m.onnx"
    try:
        export(network, images(1, size), path, dynamo=exporter == "dynamo", dynamic=False)
    except Exception as error:  # exporters raise whatever they run into
        return {**row, "passed": False, "not_exported": f"{type(error).__name__}: {str(error)[:200]}"}
    return _figures(row, path, network)


def _figures(row: Json, path: Path, network: nn.Module | None) -> Json:
    try:
        figures = measure(path, network)
    except Exception as error:  # a failure is a result
        return {**row, "passed": False, "error": f"{type(error).__name__}: {str(error)[:300]}"}
    finally:
        for made in path.parent.glob("*.onnx"):
            made.unlink()
    passed = (
        figures.parity <= GOALS["parity"]
        and figures.probability_error <= GOALS["probability_error"]
        and figures.with_gradient >= GOALS["with_gradient"]
    )
    return {**row, "passed": passed, **as_row(figures)}


def _show(row: Json) -> None:
    if "import_s" not in row:
        print(f"{row['model']:34} {row['exporter']:12} {row.get('not_exported') or row.get('error')}", flush=True)
        return
    print(
        f"{row['model']:34} {row['exporter']:12} import {row['import_s']:6.2f} s  write {row['write_s']:6.2f} s  "
        f"parity {row['parity']:.0e}  error {row['probability_error']:.0e}  weights {row['weights']:.4f}  "
        f"with gradient {row['with_gradient']:.4f}{'' if row['passed'] else '  FAILED'}",
        flush=True,
    )


def _training_steps(folder: Path, steps: int) -> list[Json]:
    found = []
    for name, rows in (("resnet18", 8), ("vit_b_16", 2)):
        network = getattr(torchvision.models, name)(weights=None)
        options: Json = {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False}
        path = export(network.train(), images(rows, 224), folder / "step.onnx", dynamic=False, **options)
        classifier = load_onnx(path).train()
        batch = images(rows, 224)[0]
        native, imported = _alternating([network.train(), classifier], batch, steps)
        row = {"model": name, "rows": rows, "native_s": native, "imported_s": imported, "ratio": imported / native}
        found.append({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
        print(f"training step of {name}, {rows} rows: native {native:.3f} s, imported {imported:.3f} s, "
              f"ratio {imported / native:.2f}", flush=True)  # fmt: skip
    return found


def _alternating(networks: list[nn.Module], batch: Tensor, steps: int) -> list[float]:
    """The fastest step of each; taken in turn, so that a busy machine slows both."""
    optimisers = [torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9) for network in networks]
    times: list[list[float]] = [[] for _ in networks]
    for _ in range(steps + 1):
        for network, optimiser, taken in zip(networks, optimisers, times, strict=True):
            started = time.perf_counter()
            result = network(batch)
            logits = result[0] if isinstance(result, tuple) else result
            F.cross_entropy(logits, torch.arange(len(batch))).backward()
            optimiser.step()
            optimiser.zero_grad()
            taken.append(time.perf_counter() - started)
    return [min(taken[1:]) for taken in times]


if __name__ == "__main__":
    main()
