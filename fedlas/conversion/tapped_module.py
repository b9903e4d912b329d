"""The module as it is exported: nameless inputs in, its scores (N, K) out, and the features that are tapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fedlas.errors import ConversionError


class TappedModule(nn.Module):
    """Calls a module and finds the scores in what it returns; raises ConversionError where there are none.

    Args:
        names: of the module's arguments, where it is called by name.
        features: the submodule whose output is tapped; of the last layer, its input.
    """

    def __init__(self, module: nn.Module, names: Sequence[str] | None, features: str | None) -> None:
        super().__init__()
        self.module = module
        self.names = None if names is None else list(names)
        self.features = features
        self._layer = None if features is None else _submodule(module, features)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return `(logits,)`, or `(logits, features)`."""
        found: list[tuple[Any, Any]] = []
        tap = None if self._layer is None else self._layer.register_forward_hook(lambda _, i, o: found.append((i, o)))
        try:
            named = None if self.names is None else dict(zip(self.names, inputs, strict=True))
            answered = self.module(*inputs) if named is None else self.module(**named)
        finally:
            if tap is not None:
                tap.remove()
        logits = _scores(answered)
        if self._layer is None:
            return (logits,)
        if not found:
            raise ConversionError("features_not_reached", f"the submodule '{self.features}' takes no part in forward")
        given, made = found[-1]
        features = given[0] if made is answered or made is logits else made
        if not isinstance(features, Tensor):
            raise ConversionError("bad_features", f"the submodule '{self.features}' gives no tensor")
        return logits, features.flatten(1)


def _submodule(module: nn.Module, name: str) -> nn.Module:
    parts = dict(module.named_modules())
    if name == "" or name not in parts:
        near = ", ".join([part for part in parts if part][-12:])
        raise ConversionError("unknown_features", f"the module has no submodule '{name}'; its last ones are {near}")
    found: nn.Module = parts[name]
    return found


def _scores(answered: Any) -> Tensor:
    """The scores (N, K) in what a module returns."""
    if isinstance(answered, Mapping) and "logits" in answered:
        answered = answered["logits"]
    elif hasattr(answered, "logits"):
        answered = answered.logits
    elif isinstance(answered, tuple | list) and answered:
        answered = answered[0]  # as FedLAS classifiers return (logits, features)
    if not isinstance(answered, Tensor):
        raise ConversionError(
            "no_scores",
            f"forward returns a {type(answered).__name__}; a tensor (N, K) of logits or probabilities, a "
            "tuple that begins with it, or something with `logits` is needed",
        )
    if answered.ndim == 1:
        return answered.unsqueeze(1)
    if answered.ndim != 2:
        raise ConversionError(
            "no_scores",
            f"forward returns {tuple(answered.shape)}; one row of class scores (N, K) for each row is needed "
            "(segmentation and language generation are not calibrated here)",
        )
    return answered
