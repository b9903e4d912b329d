"""Weights of a known architecture become an ONNX file that answers as the library's own network does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fedlas.conversion import ConversionError, model_file
from fedlas.importers import load_onnx
from tests.helpers.networks import run_file, trained_looking
from tests.helpers.refusals import refusal

CLASSES = 5
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:timm"), pytest.mark.slow]


def library_network(name: str, **options: Any) -> nn.Module:
    """The network as its library builds it: the referee."""
    import timm
    import torchvision

    torch.manual_seed(0)
    library, _, short = name.partition("/")
    if library == "timm":
        return trained_looking(timm.create_model(short, num_classes=CLASSES, **options))
    return trained_looking(torchvision.models.get_model(short, weights=None, num_classes=CLASSES, **options))


def saved(network: nn.Module, path: Path, *, prefix: str = "", dtype: torch.dtype = torch.float32) -> Path:
    state = {
        prefix + name: (value.to(dtype) if value.is_floating_point() else value).contiguous().clone()
        for name, value in network.state_dict().items()
    }
    save_file(state, path, metadata={"format": "pt"})
    return path


@pytest.mark.parametrize(
    ("name", "prefix", "preprocessing", "built"),
    [
        ("torchvision/squeezenet1_1", "module._orig_mod.", {"resize": 72, "crop": 64}, {}),
        ("timm/test_resnet", "", {"crop": 64, "channels": 1}, {"in_chans": 1}),
        pytest.param("timm/test_vit", "model.", {"crop": 96}, {"img_size": 96}, marks=pytest.mark.slow),
        pytest.param("torchvision/resnet18", "", None, {}, marks=pytest.mark.slow),
    ],
)
def test_a_file_of_weights_is_its_network(
    name: str, prefix: str, preprocessing: dict[str, Any] | None, built: dict[str, int], tmp_path: Path
) -> None:
    """Classes are known by the weights, sizes by the preprocessing, and the network can be trained."""
    network = library_network(name, **built)
    weights = saved(network, tmp_path / "w.safetensors", prefix=prefix)
    file = model_file(weights, folder=tmp_path, architecture=name, preprocessing=preprocessing)
    side = 224 if preprocessing is None else preprocessing["crop"]
    images = torch.randn(3, (preprocessing or {}).get("channels", 3), side, side)
    with torch.no_grad():
        answered = torch.from_numpy(run_file(file.path, (images,)))
        torch.testing.assert_close(answered, network(images), rtol=1e-3, atol=1e-3)
    assert f"{CLASSES} classes" in file.notes[0]
    assert load_onnx(file.path).trainable


def test_half_precision_is_computed_in_single(tmp_path: Path) -> None:
    """Weights of another width are those of the library, in float32."""
    network = library_network("timm/test_resnet").to(torch.float16).float()
    weights = saved(network, tmp_path / "w.safetensors", dtype=torch.float16)
    file = model_file(weights, folder=tmp_path, architecture="timm/test_resnet", num_classes=CLASSES)
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        answered = torch.from_numpy(run_file(file.path, (images,)))
        torch.testing.assert_close(answered, network(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("architecture", "code"),
    [
        ("torchvision/squeezenet", "unknown_architecture"),
        ("../../etc/passwd", "unknown_architecture"),
        ("torchvision/fasterrcnn_resnet50_fpn", "unknown_architecture"),
        ("timm/test_resnet", "num_classes_needed"),
        ("torchvision/squeezenet1_0", "weights_mismatch"),
    ],
)
def test_weights_of_something_else(architecture: str, code: str, tmp_path: Path) -> None:
    """Names and weights that do not fit are refused with what is wrong."""
    weights = saved(library_network("torchvision/squeezenet1_1"), tmp_path / "w.safetensors")
    with refusal(ConversionError, code):
        model_file(weights, folder=tmp_path, architecture=architecture)


def test_what_is_missing_and_unexpected_is_named(tmp_path: Path) -> None:
    """Weights that do not fit are counted and named in one message; a file of another kind is called so."""
    state = {name: value.clone() for name, value in library_network("torchvision/squeezenet1_1").state_dict().items()}
    state["stranger"] = state.pop("features.3.squeeze.bias")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ConversionError, match=r"missing \(1\): features.3.squeeze.bias; unexpected \(1\): stranger"):
        model_file(tmp_path / "w.safetensors", folder=tmp_path, architecture="torchvision/squeezenet1_1")
    (tmp_path / "w.safetensors").write_bytes(b"weights of my network, attached")
    with pytest.raises(ConversionError, match="no safetensors file"):
        model_file(tmp_path / "w.safetensors", folder=tmp_path, architecture="torchvision/squeezenet1_1")
