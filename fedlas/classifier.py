"""The classifier that the library trains: logits beside penultimate features."""

from __future__ import annotations

from abc import abstractmethod

from fedlas.extras import require

require("library", "torch")

from torch import Tensor, nn


class Classifier(nn.Module):
    """A network that shows its penultimate features, split where the head begins.

    `forward(*inputs)` equals `(head(features), features)` with `features = body(*inputs)`.

    Attributes:
        num_classes: K, the width of the logits.
        feature_dim: D, the width of the features.
        input_names: names of the inputs, in the order in which `forward` takes them.
    """

    num_classes: int
    feature_dim: int
    input_names: tuple[str, ...]

    @abstractmethod
    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(logits (N, K), features (N, D))` for inputs whose first dimension is N."""

    @abstractmethod
    def head(self, features: Tensor) -> Tensor:
        """Return logits (N, K) for features (N, D); cheap enough to train alone on cached features.

        Raises:
            TypeError: the logits need more than the features; `head_parameters` is empty then.
        """

    @abstractmethod
    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters of `head`: what a head-only fine-tune changes."""
