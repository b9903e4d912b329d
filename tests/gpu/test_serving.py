"""Calibrated files in ONNX Runtime on a card: the provider, the answers of the CPU, and the speed beside the upload."""

from __future__ import annotations

import contextlib
import io
import json
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
session = pytest.importorskip("service.predict.engine.session", exc_type=ImportError)
pytest.importorskip("fedlas.export.graph", exc_type=ImportError)

from fedlas.calibrators import TemperatureScaling
from fedlas.export.graph import write_graph
from fedlas.importers import load_onnx
from service.predict.engine.session import OpenModel

pytestmark = pytest.mark.gpu
CUDA = "CUDAExecutionProvider"
OUTPUTS = ["logits", "probabilities"]


@pytest.fixture(autouse=True)
def gpu_build() -> None:
    """The CPU build of ONNX Runtime can be asked nothing here; the GPU build must not fall back to the CPU."""
    try:
        version("onnxruntime-gpu")
    except PackageNotFoundError:
        pytest.skip("onnxruntime-gpu is not installed: pip uninstall -y onnxruntime && pip install onnxruntime-gpu")


def network(name: str) -> tuple[Any, dict[str, np.ndarray]]:
    """A network and 64 rows: torchvision's resnet18 on 224 × 224, or an encoder on 64 tokens."""
    torch.manual_seed(0)
    if name == "resnet18":
        models = pytest.importorskip("torchvision.models")
        return models.resnet18(num_classes=10), {"x": np.random.rand(64, 3, 224, 224).astype(np.float32)}
    layer = torch.nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    flat = torch.nn.Flatten()
    body = torch.nn.Sequential(torch.nn.Embedding(50, 128), encoder, flat, torch.nn.Linear(64 * 128, 10))
    return body, {"x": np.random.randint(0, 50, (64, 64)).astype(np.int64)}


def files(name: str, folder: Path) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """The uploaded file, the calibrated one, and rows."""
    model, inputs = network(name)
    upload, calibrated = folder / "upload.onnx", folder / "calibrated.onnx"
    example = tuple(torch.from_numpy(array[:2]) for array in inputs.values())
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter that needs nothing but PyTorch is the older one, and says so
        torch.onnx.export(
            model.eval(), example, upload, input_names=list(inputs), dynamic_axes={"x": {0: "n"}}, dynamo=False
        )
    classifier = load_onnx(upload)
    with torch.no_grad():
        logits = classifier(*(torch.from_numpy(array[:16]) for array in inputs.values()))[0].numpy()
    calibrator = TemperatureScaling().fit(logits, np.arange(16) % 10)
    names = [str(number) for number in range(10)]
    rows = [array[:4] for array in inputs.values()]
    write_graph(classifier, calibrator=calibrator, class_names=names, verify_with=rows).save(calibrated)
    return upload, calibrated, inputs


def milliseconds(run: Callable[[], object]) -> float:
    for _ in range(5):
        run()
    times = []
    for _ in range(30):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return 1000 * median(times)


@pytest.mark.parametrize("name", ["resnet18", "transformer"])
def test_a_calibrated_file_runs_on_the_card(name: str, tmp_path: Path, figure: Callable[[str, str, str], None]) -> None:
    """The open model names the card's provider, and answers as the CPU does: logits within 1e-3 of their spread."""
    upload, calibrated, inputs = files(name, tmp_path)
    model = OpenModel(calibrated)
    assert model.provider == CUDA
    ours = model.run(inputs, OUTPUTS)
    on_cpu = ort.InferenceSession(str(calibrated), providers=["CPUExecutionProvider"]).run(OUTPUTS, inputs)
    for answer, theirs in zip(ours.values(), on_cpu, strict=True):
        assert np.ptp(theirs) > 0
        np.testing.assert_allclose(answer, theirs, atol=1e-3 * np.ptp(theirs))
    options = session.session_options()
    raw = ort.InferenceSession(str(upload), options, providers=[(CUDA, session._TUNED[CUDA])])
    base, served = milliseconds(lambda: raw.run(None, inputs)), milliseconds(lambda: model.run(inputs, OUTPUTS))
    figure(f"{name}: calibrated / raw ONNX Runtime, rows a second", f"{base / served:.2f} ({served:.1f} ms)", "≥ 0.9")


def test_nodes_are_where_they_are_said_to_be(tmp_path: Path, figure: Callable[[str, str, str], None]) -> None:
    """All convolutions of a calibrated resnet18 run on the card, however many small nodes ONNX Runtime leaves out."""
    _, calibrated, inputs = files("resnet18", tmp_path)
    options = session.session_options()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    profiled = ort.InferenceSession(str(calibrated), options, providers=[CUDA, "CPUExecutionProvider"])
    profiled.run(None, inputs)
    events = json.loads(Path(profiled.end_profiling()).read_text())
    nodes = [event["args"] for event in events if event.get("cat") == "Node" and "provider" in event.get("args", {})]
    on_card = [node for node in nodes if node["provider"] == CUDA]
    figure("nodes of a calibrated resnet18 on the card", f"{len(on_card)} of {len(nodes)}", "")
    assert all(node["provider"] == CUDA for node in nodes if "Conv" in node["op_name"])
