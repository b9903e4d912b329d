"""The libraries of architectures: which names they have and how they build a network, without a download."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import nn

from fedlas.errors import UnsupportedModel
from fedlas.notice import Notice, adjustment

Size = tuple[int, int]
_SHOWN = 5


@dataclass(frozen=True)
class ArchitectureOptions:
    """For what a network is built; what is None is the library's own choice.

    Attributes:
        num_classes: K.
        channels: of the images.
        size: height and width of the images.
    """

    num_classes: int | None = None
    channels: int | None = None
    size: Size | None = None


class Library(Protocol):
    """A library of architectures."""

    def names(self) -> Collection[str]:
        """Every classifier's name."""
        ...

    def build(self, name: str, wanted: ArchitectureOptions) -> nn.Module:
        """A network with its library's own first weights."""
        ...

    def size(self, name: str, network: nn.Module) -> Size:
        """Height and width of the images that the network was made for."""
        ...

    def heads(self, network: nn.Module) -> list[nn.Module]:
        """The layers that give the class scores, where the library names them."""
        ...

    def adjustments(self, name: str) -> list[Notice]:
        """What the file of weights cannot tell, and was therefore decided here."""
        ...


class Torchvision:
    """The classification networks of torchvision."""

    #: Networks with more outputs in training than in use, which we do not train.
    _AUXILIARY = ("googlenet", "inception_v3")

    def __init__(self) -> None:
        self._models: ModuleType = import_module("torchvision.models")

    def names(self) -> Collection[str]:
        return set(self._models.list_models(module=self._models))

    def build(self, name: str, wanted: ArchitectureOptions) -> nn.Module:
        options: dict[str, object] = {} if wanted.num_classes is None else {"num_classes": wanted.num_classes}
        if name in self._AUXILIARY:
            options |= {"aux_logits": False, "init_weights": False}
        if wanted.size is not None and name.startswith("vit_"):
            options["image_size"] = wanted.size[0]
        if wanted.size is not None and name.startswith("maxvit"):
            options["input_size"] = wanted.size
        network: nn.Module = self._models.get_model(name, weights=None, **options)
        if wanted.channels is not None:
            _read_channels(network, wanted.channels)
        return network

    def size(self, name: str, network: nn.Module) -> Size:
        side = getattr(network, "image_size", None)  # vision transformers take no other
        if side is None:
            side = self._models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
        return int(side), int(side)

    def heads(self, network: nn.Module) -> list[nn.Module]:
        return []

    def adjustments(self, name: str) -> list[Notice]:
        if name not in self._AUXILIARY:
            return []
        message = (
            f"torchvision's {name} normalises its input once more where it started from pretrained weights "
            "(transform_input=True), which a file of weights does not tell; it was built without."
        )
        return [adjustment("transform_input_off", message, architecture=name)]


class Timm:
    """The networks of timm, plain names and those with a tag (`resnet50.a1_in1k`), built without its weights."""

    def __init__(self) -> None:
        self._timm: ModuleType = import_module("timm")

    def names(self) -> Collection[str]:
        return {*self._timm.list_models(), *self._timm.list_pretrained()}

    def build(self, name: str, wanted: ArchitectureOptions) -> nn.Module:
        given = {"num_classes": wanted.num_classes, "in_chans": wanted.channels}
        options = {key: value for key, value in given.items() if value is not None}
        network: nn.Module = self._timm.create_model(name, pretrained=False, **options)
        fixed = self._config(network).get("fixed_input_size")
        if fixed and wanted.size is not None and wanted.size != self.size(name, network):
            network = self._timm.create_model(name, pretrained=False, img_size=wanted.size, **options)
        return network

    def size(self, name: str, network: nn.Module) -> Size:
        _, height, width = self._config(network).get("input_size", (3, 224, 224))
        return int(height), int(width)

    def heads(self, network: nn.Module) -> list[nn.Module]:
        getter = getattr(network, "get_classifier", None)
        found = None if getter is None else getter()
        heads = list(found) if isinstance(found, tuple | list | nn.ModuleList) else [found]
        return [head for head in heads if isinstance(head, nn.Module)]

    def adjustments(self, name: str) -> list[Notice]:
        return []

    def _config(self, network: nn.Module) -> dict[str, Any]:
        return dict(getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None) or {})


def first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d | None]:
    """The layer that reads the images, with its path."""
    return next(((path, m) for path, m in network.named_modules() if isinstance(m, nn.Conv2d)), ("", None))


def _read_channels(network: nn.Module, channels: int) -> None:
    """What people do by hand where a library has no option for it: another first convolution."""
    _, layer = first_convolution(network)
    assert layer is not None
    layer.in_channels = channels
    layer.weight = nn.Parameter(torch.empty(layer.out_channels, channels, *layer.kernel_size))


_LIBRARIES: dict[str, type[Torchvision] | type[Timm]] = {"torchvision": Torchvision, "timm": Timm}


def find_architecture(name: str) -> tuple[Library, str]:
    """The library and its own name of the architecture called `library/name`.

    Raises:
        UnsupportedModel: `unknown_architecture` with what comes close, `architecture_unavailable` where the library is
            not installed here.
    """
    prefix, _, short = name.partition("/")
    if prefix not in _LIBRARIES:
        raise UnsupportedModel(
            "unknown_architecture",
            f"an architecture is called torchvision/<name> or timm/<name>, got {name[:100]!r}",
        )
    library = _opened(prefix)
    known = library.names()
    if short not in known:
        close = difflib.get_close_matches(short[:100], sorted(known), n=_SHOWN)
        hint = f"; close to it are {', '.join(close)}" if close else ""
        raise UnsupportedModel("unknown_architecture", f"{prefix} has no classifier {short[:100]!r}{hint}")
    return library, short


def _opened(name: str) -> Library:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries about themselves
            return _LIBRARIES[name]()
    except ImportError as error:
        raise UnsupportedModel(
            "architecture_unavailable",
            f"{name} is not installed on this service's workers; send the network as ONNX, or ask the operator for it",
        ) from error
