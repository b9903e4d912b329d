"""The loading of weights of a known architecture, step by step in the order of the steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fedlas.errors import UnsupportedModel
from fedlas.importers.architectures.building import build, fill
from fedlas.importers.architectures.classifier import NativeClassifier
from fedlas.importers.architectures.heads import find_heads, head_weight
from fedlas.importers.architectures.libraries import ArchitectureOptions, Library, find_architecture, first_convolution
from fedlas.importers.architectures.matching import Stored, look_up, match
from fedlas.importers.safetensors import read_header, read_tensors
from fedlas.notice import Notice, adjustment

#: Protocol Buffers, ONNX's container, ends there.
_MAX_BYTES = 2**31 - 2**24
#: Classes of the networks as their libraries build them.
_IMAGENET = 1000
#: Of one image: 4096 x 4096 in three channels.
_MAX_VALUES = 3 * 2**24


def load_architecture(
    path: str | Path, *, architecture: str, num_classes: int | None = None, input_shape: tuple[int, ...] | None = None
) -> NativeClassifier:
    """Weights in a safetensors file as a classifier of a known architecture; no code of the file is run.

    Nothing of the weights is read before the file's header fits the architecture, which is built without memory.

    Args:
        path: a safetensors file with the network's state dictionary.
        architecture: `torchvision/<name>` or `timm/<name>`.
        num_classes: told from the file's last layer where not given.
        input_shape: `(C, H, W)` of the images, where they are not of the size that the architecture was made for.

    Raises:
        UnsupportedModel: the file, the name or both do not make a classifier; `code` and message say what was found.
        ValueError: `input_shape` is not three positive numbers, or `num_classes` is under 2.
    """
    if num_classes is not None and num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if input_shape is not None and (len(input_shape) != 3 or min(input_shape) < 1):
        raise ValueError(f"input_shape must be (channels, height, width), got {input_shape}")
    stored = read_header(path)
    plan = _planned(stored, architecture, num_classes, input_shape)
    network = build(plan.make, architecture)
    found = match(network, stored)
    found.require(f"{architecture} with {plan.num_classes} classes")
    _check_bytes(network)
    shape = _image_shape(plan, network, input_shape)
    weights = read_tensors(path, found.tensors)
    _check_finite(weights)
    network = fill(network, weights, lambda: build(plan.make, architecture, memory=True)).eval()
    example = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    heads = find_heads(network, plan.library.heads(network), plan.num_classes, example)
    return NativeClassifier(
        network,
        heads,
        architecture=architecture,
        num_classes=plan.num_classes,
        image_shape=shape,
        adjustments=[
            *found.adjustments(),
            *plan.library.adjustments(plan.name),
            *plan.adjustments(shape, classes_given=num_classes is not None, size_given=input_shape is not None),
        ],
    ).eval()


@dataclass(frozen=True)
class _ImportPlan:
    """What is built."""

    library: Library
    name: str
    num_classes: int
    wanted: ArchitectureOptions

    def make(self) -> nn.Module:
        return self.library.build(self.name, self.wanted)

    def adjustments(self, shape: tuple[int, int, int], *, classes_given: bool, size_given: bool) -> Iterator[Notice]:
        """What was taken from the file or from the library, since the owner did not say it."""
        if not classes_given:
            message = f"The file's last layer has {self.num_classes} rows: so many classes it is."
            yield adjustment("classes_counted", message, num_classes=self.num_classes)
        if self.wanted.channels is not None:
            message = f"The file's first convolution reads {shape[0]} channels, and so does the network that was built."
            yield adjustment("channels_read", message, channels=shape[0])
        if not size_given:
            message = (
                f"Images have {shape[1]} x {shape[2]} pixels, the architecture's own size: no preprocessing says it."
            )
            yield adjustment("image_size_assumed", message, height=shape[1], width=shape[2])


def _planned(
    stored: Stored, architecture: str, num_classes: int | None, input_shape: tuple[int, ...] | None
) -> _ImportPlan:
    """What the request and the file's header say about the network."""
    library, name = find_architecture(architecture)
    usual = build(lambda: library.build(name, ArchitectureOptions()), architecture)
    classes = num_classes if num_classes is not None else _told_classes(usual, library, stored)
    size = None if input_shape is None else (input_shape[1], input_shape[2])
    return _ImportPlan(library, name, classes, ArchitectureOptions(classes, _told_channels(usual, stored), size))


def _told_classes(usual: nn.Module, library: Library, stored: Stored) -> int:
    """The number of classes in the file: the first axis of the last layer's weight."""
    name = head_weight(usual, library.heads(usual), getattr(usual, "num_classes", None) or _IMAGENET)
    weight = look_up(stored, name) if name else None
    if weight is None or not weight.shape or weight.shape[0] < 2:
        where = f"the file has no {name} of two or more rows" if name else "the architecture's last layer is not known"
        raise UnsupportedModel("num_classes_needed", f"{where}; pass num_classes=")
    return weight.shape[0]


def _told_channels(usual: nn.Module, stored: Stored) -> int | None:
    """The number of channels that the file's first convolution reads, None where it is the architecture's own."""
    path, layer = first_convolution(usual)
    weight = look_up(stored, f"{path}.weight")
    if layer is None or weight is None or len(weight.shape) != 4 or layer.groups != 1:
        return None
    expected, channels = tuple(layer.weight.shape), weight.shape[1]
    same = (weight.shape[0], *weight.shape[2:]) == (expected[0], *expected[2:])
    return channels if same and channels not in (0, expected[1]) else None


def _image_shape(plan: _ImportPlan, network: nn.Module, given: tuple[int, ...] | None) -> tuple[int, int, int]:
    _, layer = first_convolution(network)
    channels = 3 if layer is None else layer.in_channels
    if given is not None and given[0] != channels:
        raise UnsupportedModel(
            "weights_mismatch", f"the weights take images of {channels} channels, preprocessing makes {given[0]}"
        )
    height, width = given[1:] if given else plan.library.size(plan.name, network)
    if channels * height * width > _MAX_VALUES:
        raise UnsupportedModel(
            "unsupported_input",
            f"images of {channels} x {height} x {width} are too large, {_MAX_VALUES} values are read",
        )
    return channels, height, width


def _check_bytes(network: nn.Module) -> None:
    needed = sum(4 * value.numel() for value in network.state_dict().values())
    if needed > _MAX_BYTES:
        raise UnsupportedModel(
            "too_large_for_onnx",
            f"the weights take {needed / 2**30:.1f} GiB as float32; an ONNX file, which is what is served, holds 2 GiB",
        )


def _check_finite(weights: dict[str, Tensor]) -> None:
    broken = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise UnsupportedModel("non_finite_weights", f"{len(broken)} weights are not finite numbers, first {broken[0]}")
