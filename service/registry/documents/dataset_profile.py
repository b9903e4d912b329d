"""The dataset profile: what inspection found in a labelled dataset, and the splits that it fixed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.registry.documents.base import Document, TensorSpec, is_absent

SeenByModel = Literal["no", "train_split", "unknown"]


class DatasetRoles(Document):
    """Which column or array plays which role; a role without a column is left out."""

    label: str | None = Field(None, exclude_if=is_absent)
    split: str | None = Field(None, exclude_if=is_absent)
    group: str | None = Field(None, exclude_if=is_absent)
    slices: list[str] | None = Field(None, exclude_if=is_absent)
    weight: str | None = Field(None, exclude_if=is_absent)
    time: str | None = Field(None, exclude_if=is_absent)
    id: str | None = Field(None, exclude_if=is_absent)


class SplitCounts(Document):
    """Rows in each split, fixed once."""

    train: int = 0
    calibration: int = 0
    guarantee: int = 0
    test: int = 0


class DatasetProfile(Document):
    """A dataset as its prepared copy holds it."""

    format: str
    num_samples: int
    num_classes: int
    class_names: list[str]
    class_counts: dict[str, int]
    inputs: list[TensorSpec]
    roles: DatasetRoles
    seen_by_model: SeenByModel
    splits: SplitCounts
    warnings: list[str] = Field(default_factory=list)
