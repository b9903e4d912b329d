"""Architectures that people train, and what is measured of each: import, parity, gradients, the file written back."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from fedlas.calibrators import TemperatureScaling
from fedlas.export.graph import write_graph
from fedlas.importers import OnnxClassifier, check_parity, load_onnx
from tests.helpers.networks import run_file

Maker = Callable[[], nn.Module]


def _torchvision(**sizes: int) -> dict[str, tuple[Maker, int]]:
    return {name: (lambda name=name: getattr(torchvision.models, name)(weights=None), n) for name, n in sizes.items()}


def _timm(**sizes: int) -> dict[str, tuple[Maker, int]]:
    return {f"timm/{name}": (lambda name=name: _quiet(name), n) for name, n in sizes.items()}


def _quiet(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        network: nn.Module = timm.create_model(name, num_classes=1000)
    return network


#: Constructor and size of the images; together they have every kind of block that these libraries have.
ARCHITECTURES: dict[str, tuple[Maker, int]] = {
    **_torchvision(
        resnet18=224,
        mobilenet_v2=64,
        mobilenet_v3_small=64,
        shufflenet_v2_x0_5=64,
        squeezenet1_1=64,
        mnasnet0_5=64,
        efficientnet_b0=64,
        regnet_y_400mf=64,
        convnext_tiny=64,
        densenet121=64,
        swin_t=64,
        swin_v2_t=64,
        vit_b_16=224,
        maxvit_t=224,
    ),
    "googlenet": (lambda: torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=False), 64),
    "inception_v3": (lambda: torchvision.models.inception_v3(weights=None, init_weights=False, aux_logits=False), 96),
    **_timm(
        convnext_atto=64,
        mobilevit_xxs=64,
        ghostnet_050=64,
        repvgg_a0=64,
        efficientvit_b0=64,
        resnetv2_50=64,
        hrnet_w18_small=64,
        lcnet_050=64,
        rexnet_100=64,
        ese_vovnet19b_dw=64,
        res2net50_26w_4s=64,
        poolformer_s12=64,
        mobilenetv4_conv_small=64,
        hgnetv2_b0=64,
        mambaout_femto=64,
        nf_resnet26=64,
        edgenext_xx_small=64,
        skresnet18=64,
        dpn48b=64,
        visformer_tiny=224,
        fastvit_t8=256,
        botnet26t_256=256,
        lambda_resnet26t=64,
        deit_tiny_distilled_patch16_224=224,
        mixer_s32_224=224,
        resmlp_12_224=224,
        gmlp_ti16_224=224,
        eva02_tiny_patch14_224=224,
        cait_xxs24_224=224,
        xcit_nano_12_p16_224=224,
        pit_ti_224=224,
        levit_128s=224,
    ),
}


@dataclass(frozen=True)
class Figures:
    """The measurements of one file.

    Attributes:
        import_s, write_s: seconds.
        parity: largest difference between the file's and the imported network's scores, over the largest score (or 1).
        probability_error: largest difference in probability between a trained network and the file written from it.
        weights: number of weights, over that of the network that was exported where it is known.
        with_gradient: share of the weights that one backward pass reaches with a gradient that is not zero.
    """

    import_s: float
    write_s: float
    parity: float
    probability_error: float
    weights: float
    with_gradient: float


def measure(path: Path, network: nn.Module | None = None, *, rows: int = 4) -> Figures:
    """Import a file, compare it with ONNX Runtime, train one step, write it back and compare again.

    Args:
        network: what was exported; without it the file's weights are replaced by random ones before training, since
            gradients through layers of equal weights cancel.

    Raises:
        UnsupportedModel, ExportError: where one of these fails.
    """
    started = time.perf_counter()
    classifier = load_onnx(path)
    import_s = time.perf_counter() - started
    assert isinstance(classifier, OnnxClassifier), f"{path} is not trainable"
    check_parity(path, classifier)
    parity = _score_parity(path, classifier)
    weights = sum(p.numel() for p in classifier.parameters())
    if network is None:
        spread(classifier)
    with_gradient = _train_once(classifier, rows) / weights
    names = [str(i) for i in range(classifier.num_classes)]
    started = time.perf_counter()
    report = write_graph(
        classifier.eval(), calibrator=_softening(classifier), class_names=names, verify_with=classifier.example_rows(3)
    ).save(path.with_suffix(".tuned.onnx"))
    write_s = time.perf_counter() - started
    native = sum(p.numel() for p in network.parameters()) if network is not None else weights
    return Figures(import_s, write_s, parity, report.parity.max_probability_error, weights / native, with_gradient)


@torch.no_grad()
def _softening(classifier: OnnxClassifier) -> TemperatureScaling:
    """Temperature at which the probabilities of random weights are no zeros and ones, which would hide differences."""
    logits = classifier(*(torch.from_numpy(row) for row in classifier.example_rows(3)))[0]
    return TemperatureScaling(max(1.5, float(logits.std()) / 2))


def _score_parity(path: Path, classifier: OnnxClassifier) -> float:
    """On one row, which every file takes."""
    inputs = [torch.from_numpy(row) for row in classifier.example_rows(1)]
    with torch.no_grad():
        scores = classifier(*inputs)[0]
    expected = run_file(path, tuple(inputs))
    found = scores.softmax(1).numpy() if classifier.output_kind == "probabilities" else scores.numpy()
    return float(np.abs(found - expected.reshape(found.shape)).max() / max(1.0, np.abs(expected).max()))


def _train_once(classifier: OnnxClassifier, rows: int) -> int:
    """One step of gradient descent, small beside each weight; returns how many weights had a gradient."""
    logits, _ = classifier.train()(*(torch.from_numpy(row) for row in classifier.example_rows(rows)))
    F.cross_entropy(logits, torch.arange(rows) % classifier.num_classes).backward()
    reached = 0
    with torch.no_grad():
        for weight in classifier.parameters():
            if weight.grad is not None and (largest := weight.grad.abs().max()) > 0:
                reached += weight.numel()
                weight.sub_(0.01 * weight.abs().mean() * weight.grad / largest)
    return reached


def spread(classifier: nn.Module, *, seed: int = 0) -> None:
    """Random weights of a usual size in the place of all."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in classifier.parameters():
            size = (2 / max(1, weight[0].numel())) ** 0.5 if weight.ndim > 1 else 0.1
            weight.copy_(size * torch.randn(weight.shape, generator=generator) + (0.1 if weight.ndim == 1 else 0.0))
