"""The heads of a network: the layers that make its class scores, proven by computing them both ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from fedlas.errors import UnsupportedModel

#: Relative to the largest score: both ways run the same layers, only their results are put together differently.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class ClassifierHeads:
    """The layers from each head on (by their paths), and the shape of one row of what each head reads.

    There is one, or two whose scores are averaged (distilled vision transformers).
    """

    chains: tuple[tuple[str, ...], ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def paths(self) -> list[str]:
        """The heads themselves."""
        return [chain[0] for chain in self.chains]

    def scores(self, network: nn.Module, features: Sequence[Tensor]) -> Tensor:
        """Scores (N, K) from what the heads read."""
        results = []
        for chain, value in zip(self.chains, features, strict=True):
            for path in chain:
                value = network.get_submodule(path)(value)
            results.append(value.flatten(1))
        return results[0] if len(results) == 1 else torch.stack(results).mean(0)


@contextmanager
def listening(network: nn.Module, paths: Sequence[str]) -> Iterator[list[list[Tensor]]]:
    """Inside, everything that the layers at `paths` read is noted, per layer."""
    heard: list[list[Tensor]] = [[] for _ in paths]
    handles = [
        network.get_submodule(path).register_forward_pre_hook(lambda _, given, into=into: into.append(given[0]))
        for path, into in zip(paths, heard, strict=True)
    ]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def find_heads(network: nn.Module, named: Sequence[nn.Module], num_classes: int, example: Tensor) -> ClassifierHeads:
    """The heads of a network in inference, from those that its library names or the last layer with K outputs.

    Raises:
        UnsupportedModel: `no_classifier_output` where the network does not give `num_classes` scores per row,
            `features_not_found` where they are not made by a last layer.
    """
    try:
        expected = network(example)
    except Exception as error:  # whatever a network runs into
        raise UnsupportedModel(
            "unsupported_architecture",
            f"the network cannot be run on images of shape {tuple(example.shape[1:])}: {str(error)[:200]}",
        ) from error
    if not isinstance(expected, Tensor) or expected.shape != (len(example), num_classes):
        shape = tuple(expected.shape) if isinstance(expected, Tensor) else type(expected).__name__
        raise UnsupportedModel(
            "no_classifier_output", f"the network gives {shape}, {(len(example), num_classes)} class scores are needed"
        )
    for chains in _candidates(network, named, num_classes):
        if (shapes := _proven(network, chains, example, expected)) is not None:
            return ClassifierHeads(chains, shapes)
    raise UnsupportedModel(
        "features_not_found", "the class scores are not made by a last layer; send the network as ONNX with features="
    )


def head_weight(network: nn.Module, named: Sequence[nn.Module], num_classes: int) -> str | None:
    """Name of the weight of the last layer, whose first axis are the classes."""
    for chains in _candidates(network, named, num_classes):
        path = chains[0][0]
        if isinstance(network.get_submodule(path), nn.Linear | nn.Conv2d):
            return f"{path}.weight"
    return None


def _candidates(
    network: nn.Module, named: Sequence[nn.Module], num_classes: int
) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Likely heads, the likeliest first: the layer alone, then with what its nn.Sequential does after it."""
    paths = {id(module): path for path, module in network.named_modules()}
    heads = [paths[id(module)] for module in named if id(module) in paths]
    last = [path for path, module in network.named_modules() if _outputs(module) == num_classes]
    inner = [_last_inside(network, path) for path in heads]
    for group in filter(None, (inner, heads, last[-1:])):
        yield from product(*([(path,)] for path in group))
        yield from product(*([_with_rest(network, path)] for path in group))


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1}:
        return module.out_channels
    return None


def _last_inside(network: nn.Module, path: str) -> str:
    found = [name for name, module in network.get_submodule(path).named_modules() if _outputs(module) is not None]
    return path if not found or not found[-1] else f"{path}.{found[-1]}"


def _with_rest(network: nn.Module, path: str) -> tuple[str, ...]:
    parent, _, name = path.rpartition(".")
    container = network.get_submodule(parent)
    if not isinstance(container, nn.Sequential):
        return (path,)
    names = [child for child, _ in container.named_children()]
    return tuple(f"{parent}.{child}" for child in names[names.index(name) :])


def _proven(
    network: nn.Module, chains: tuple[tuple[str, ...], ...], example: Tensor, expected: Tensor
) -> tuple[tuple[int, ...], ...] | None:
    """The shapes of what the heads read, None where they do not give the network's scores."""
    with listening(network, [chain[0] for chain in chains]) as heard:
        network(example)
    if any(len(values) != 1 or values[0].shape[:1] != example.shape[:1] for values in heard):
        return None
    shapes = tuple(tuple(values[0].shape[1:]) for values in heard)
    scores = ClassifierHeads(chains, shapes).scores(network, [values[0] for values in heard])
    if scores.shape != expected.shape:
        return None
    difference = (scores - expected).abs().max()
    return shapes if difference <= _TOLERANCE * expected.abs().max().clamp(min=1) else None
