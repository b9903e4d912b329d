"""Weights of a known architecture (torchvision, timm) in a safetensors file, written as ONNX on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fedlas.conversion import ModelFile
from fedlas.conversion.modules import write_module
from fedlas.errors import ConversionError

#: Prefixes that wrappers put before every name: DataParallel, torch.compile, Lightning and plain habit.
_WRAPPERS = ("module.", "_orig_mod.", "model.")
#: Classes of the networks as torchvision builds them.
_IMAGENET = 1000


def write_weights(
    file: Path,
    folder: Path,
    *,
    architecture: str,
    num_classes: int | None,
    image_shape: tuple[int, int, int] | None,
    class_names: list[str] | None,
) -> ModelFile:
    """Write `model.onnx`; raises ConversionError as `fedlas.conversion.model_file` does.

    Args:
        num_classes: that of the file's last layer where not given.
        image_shape: `(C, H, W)`, where images are not of the size that the architecture was made for.
    """
    weights = _weights(file)
    count = num_classes or _told_classes(_built(architecture, None, image_shape), weights)
    network = _built(architecture, count, image_shape)
    _fill(network, weights, f"{architecture} with {count} classes")
    shape = image_shape or (3, *_own_size(architecture, network))
    images = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    made = write_module(network, folder, example=images, class_names=class_names, features=None)
    note = (
        f"The weights are those of {architecture} with {count} classes, for images of {shape[1]} x {shape[2]} pixels."
    )
    return replace(made, notes=[note, *made.notes])


def _weights(file: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(file)
    except (SafetensorError, ValueError) as error:
        raise ConversionError(
            "not_safetensors",
            f"{file} is no safetensors file ({error}), which weights for an architecture must be: "
            "safetensors.torch.save_file(model.state_dict(), 'model.safetensors'); "
            "an ONNX file is sent without architecture=",
        ) from error
    while prefix := next((p for p in _WRAPPERS if weights and all(name.startswith(p) for name in weights)), None):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _built(architecture: str, num_classes: int | None, image_shape: tuple[int, int, int] | None) -> nn.Module:
    library, _, name = architecture.partition("/")
    builders = {"torchvision": _by_torchvision, "timm": _by_timm}
    if library not in builders:
        raise ConversionError(
            "unknown_architecture", f"an architecture is called torchvision/<name> or timm/<name>, not {architecture!r}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries about themselves
            return builders[library](name, num_classes, image_shape)
    except ImportError as error:
        message = f"{library} is not installed here: pip install 'fedlas[architectures]'"
        raise ConversionError("architecture_unavailable", message) from error
    except Exception as error:  # whatever the constructors run into
        raise ConversionError("unknown_architecture", f"{architecture} cannot be built: {error}") from error


def _by_torchvision(name: str, num_classes: int | None, image_shape: tuple[int, int, int] | None) -> nn.Module:
    models = import_module("torchvision.models")  # it has no types
    options: dict[str, Any] = {"num_classes": num_classes or _IMAGENET}
    if name in ("googlenet", "inception_v3"):  # with more outputs in training than in use
        options |= {"aux_logits": False, "init_weights": False}
    if image_shape is not None and name.startswith("vit_"):
        options["image_size"] = image_shape[1]
    if image_shape is not None and name.startswith("maxvit"):
        options["input_size"] = image_shape[1:]
    network: nn.Module = models.get_model(name, weights=None, **options)
    return network


def _by_timm(name: str, num_classes: int | None, image_shape: tuple[int, int, int] | None) -> nn.Module:
    timm = import_module("timm")
    options = {} if num_classes is None else {"num_classes": num_classes}
    channels = 3 if image_shape is None else image_shape[0]
    network: Any = timm.create_model(name, pretrained=False, in_chans=channels, **options)
    fixed = network.pretrained_cfg.get("fixed_input_size")
    if fixed and image_shape is not None and image_shape[1:] != _own_size(f"timm/{name}", network):
        network = timm.create_model(name, pretrained=False, in_chans=channels, img_size=image_shape[1:], **options)
    made: nn.Module = network
    return made


def _own_size(architecture: str, network: Any) -> tuple[int, int]:
    library, _, name = architecture.partition("/")
    if library == "timm":
        _, height, width = network.pretrained_cfg.get("input_size", (3, 224, 224))
        return int(height), int(width)
    models = import_module("torchvision.models")
    side = getattr(network, "image_size", None)  # vision transformers take no other
    side = side or models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    return int(side), int(side)


def _told_classes(network: nn.Module, weights: Mapping[str, Tensor]) -> int:
    """The number of classes in the file: the first axis of the last layer's weight."""
    expected = getattr(network, "num_classes", _IMAGENET)
    last = [
        f"{path}.weight"
        for path, module in network.named_modules()
        if getattr(module, "out_features", getattr(module, "out_channels", None)) == expected
    ]
    weight = weights.get(last[-1]) if last else None
    if weight is None or len(weight) < 2:
        raise ConversionError(
            "num_classes_needed", "the file's last layer tells no number of classes: give num_classes="
        )
    return len(weight)


def _fill(network: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Put the weights into the network; raises ConversionError with everything that does not fit."""
    used = {key: value for key, value in weights.items() if not key.lower().startswith("aux")}
    try:
        incompatible = network.load_state_dict(used, strict=False)
    except RuntimeError as error:  # of a wrong shape
        raise ConversionError(
            "weights_mismatch", f"the weights are not those of {name}: {str(error)[:1000]}"
        ) from error
    missing = [key for key in incompatible.missing_keys if not key.endswith("num_batches_tracked")]
    kinds = {"missing": missing, "unexpected": incompatible.unexpected_keys}
    parts = [f"{kind} ({len(keys)}): {', '.join(keys[:10])}" for kind, keys in kinds.items() if keys]
    if parts:
        raise ConversionError("weights_mismatch", f"the weights are not those of {name}: {'; '.join(parts)}")
