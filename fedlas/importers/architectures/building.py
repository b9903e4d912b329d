"""The construction of a network without memory for its weights, and their loading from a file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedlas.errors import UnsupportedModel

_RANDOM = frozenset({Tensor.normal_, Tensor.uniform_})


class WithoutMemory(TorchFunctionMode):
    """Inside, `torch.empty` gives tensors without memory, and drawing first weights into them does nothing.

    Unlike `torch.device("meta")`, which makes every tensor so, this leaves the computed ones (tables of positions,
    buffers that no file holds) as they are; layers make their weights with `torch.empty`.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func is torch.empty:
            kwargs = {**kwargs, "device": "meta"}
        elif func in _RANDOM and args[0].is_meta:
            return args[0]
        return func(*args, **kwargs)


def build(make: Callable[[], nn.Module], name: str, *, memory: bool = False) -> nn.Module:
    """The network that `make` builds, without memory for its weights unless told otherwise.

    Raises:
        UnsupportedModel: `unsupported_architecture` where its library cannot build it so.
    """
    failure: Exception | None = None
    # A few constructors run a part of the network to learn its shape, for which all tensors must be of one kind.
    places: Sequence[AbstractContextManager[object]]
    places = [nullcontext()] if memory else [WithoutMemory(), torch.device("meta")]
    for place in places:
        try:
            with warnings.catch_warnings(), place:
                warnings.simplefilter("ignore")  # of the libraries about initial weights, which are not used
                return make().eval()
        except Exception as error:  # whatever the constructors run into
            failure = failure or error
    raise UnsupportedModel(
        "unsupported_architecture", f"{name} cannot be built: {type(failure).__name__}: {str(failure)[:200]}"
    ) from failure


def fill(network: nn.Module, weights: Mapping[str, Tensor], rebuild: Callable[[], nn.Module]) -> nn.Module:
    """The network with `weights` (all that it needs; counters of batches may be left out).

    `rebuild` builds it with memory, for the few that compute buffers from `torch.empty` or share weights.
    """
    if _shares_weights(network):
        network = rebuild()
        network.load_state_dict(weights, strict=False)
        return network
    network.load_state_dict(weights, strict=False, assign=True)
    if any(value.is_meta for value in (*network.parameters(), *network.buffers())):
        network = rebuild()
        network.load_state_dict(weights, strict=False)
    return network


def _shares_weights(network: nn.Module) -> bool:
    return len(list(network.parameters())) != len(list(network.named_parameters(remove_duplicate=False)))
