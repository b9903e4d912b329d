"""The model profile: what inspection or calibration found out about a model's file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.registry.documents.base import Document, TensorSpec
from service.registry.documents.guarantees import Guarantees
from service.registry.documents.preprocessing import ImagePreprocessing
from service.registry.documents.serving_cost import ServingCost

Task = Literal["binary", "multiclass"]


class OutputSpec(Document):
    """The output that classifies."""

    name: str
    kind: Literal["logits", "probabilities"]


class FeatureSpec(Document):
    """Where the penultimate features are tapped."""

    layer: str
    dim: int


class FamiliaritySpec(Document):
    """The score of the output `familiarity`."""

    score: Literal["mahalanobis", "norm"]


class ModelProfile(Document):
    """A classifier as it is served; fields with a default are missing in profiles of earlier versions."""

    format: str = "onnx"
    architecture: str | None = None
    preprocessing: ImagePreprocessing | None = None
    inputs: list[TensorSpec]
    output: OutputSpec
    task: Task
    num_classes: int
    class_names: list[str]
    class_names_given: bool = Field(description="False: the names are numbers that stand for the missing ones.")
    positive_class: str | None = None
    features: FeatureSpec
    trainable: bool
    warnings: list[str] = Field(default_factory=list)
    guarantees: Guarantees | None = None
    familiarity: FamiliaritySpec | None = None
    cost_factor: float | None = Field(None, description="Cost of a prediction, as a multiple of the uploaded model's.")
    cost: ServingCost | None = None
