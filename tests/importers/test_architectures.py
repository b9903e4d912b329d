"""Architectures that people really train: imported, trained and written back, from both exporters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from fedlas.calibrators import TemperatureScaling
from fedlas.export import export_onnx
from fedlas.importers import load_onnx
from tests.importers.networks import export, images, run_file, trained_looking, weight_count

#: Constructor, size of the images, share of the weights that no exporter may fold away.
QUICK: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: torchvision.models.resnet18(weights=None), 64),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(weights=None), 64),
}
SLOW: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vit_b_16": (lambda: torchvision.models.vit_b_16(weights=None), 224),
    "convnext_atto": (lambda: timm.create_model("convnext_atto"), 64),
    "squeezenet": (lambda: torchvision.models.squeezenet1_1(weights=None), 64),
    "swin_t": (lambda: torchvision.models.swin_t(weights=None), 64),
    "deit_distilled": (lambda: timm.create_model("deit_tiny_distilled_patch16_224", img_size=64), 64),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:timm")
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_architecture(name: str, dynamo: bool, tmp_path: Path) -> None:
    """Logits within 1e-4 of ONNX Runtime, a gradient for every weight, and after a step the file equals the network."""
    make, size = (QUICK | SLOW)[name]
    torch.manual_seed(0)
    network = trained_looking(make())
    path = export(network, images(1, size), tmp_path / "m.onnx", dynamo=dynamo, dynamic=False)
    classifier = load_onnx(path)
    x = images(1, size)
    expected = run_file(path, x)
    difference = np.abs(classifier(*x)[0].detach().numpy() - expected).max()
    assert difference <= 1e-4 * max(1.0, np.abs(expected).max())
    assert weight_count(classifier) >= 0.96 * weight_count(network)
    logits, _ = classifier.train()(*images(2, size))
    F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert [n for n, p in classifier.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    torch.optim.SGD(classifier.parameters(), lr=1e-3).step()
    report = export_onnx(
        classifier.eval(),
        tmp_path / "out.onnx",
        calibrator=TemperatureScaling(1.5),
        class_names=[str(i) for i in range(classifier.num_classes)],
        verify_with=[images(3, size)[0].numpy()],
        tolerance=1e-5,
    )
    assert report.rows == 3
