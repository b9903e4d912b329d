"""The dataset profile: what inspection found in a dataset, and the splits of labelled rows that it fixed."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from service.registry.documents.notice import Notice
from service.registry.documents.reading import Reading
from service.registry.json_models import Document, TensorSpec, is_absent

SeenByModel = Literal["no", "train_split", "unknown"]
#: What a dataset is sent for.
Purpose = Literal["fit", "predict"]

_SUM_TOLERANCE = 1e-6


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


class SplitShares(Document):
    """Shares of the rows that drawn splits get; they sum to one, and a split that is not named gets none."""

    train: float = Field(0, ge=0, le=1)
    calibration: float = Field(ge=0.01, le=1)
    guarantee: float = Field(0, ge=0, le=1)
    test: float = Field(ge=0.01, le=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = math.fsum((self.train, self.calibration, self.guarantee, self.test))
        if abs(total - 1) > _SUM_TOLERANCE:
            raise ValueError(f"the shares must sum to 1, these sum to {total:g}")
        return self


class DatasetProfile(Document):
    """A dataset as its prepared copy holds it."""

    format: str
    num_samples: int
    labelled: bool = True
    num_classes: int | None = None
    class_names: list[str] | None = None
    class_counts: dict[str, int] | None = None
    inputs: list[TensorSpec]
    roles: DatasetRoles
    seen_by_model: SeenByModel | None = None
    splits: SplitCounts | None = None
    warnings: list[str] = Field(default_factory=list)
    adjustments: list[Notice] = Field(default_factory=list)
    columns: list[str] | None = None
    reading: Reading | None = None

    @model_validator(mode="after")
    def _labels_are_told(self) -> Self:
        needed = ("num_classes", "class_names", "class_counts", "seen_by_model", "splits")
        if self.labelled and (missing := [name for name in needed if getattr(self, name) is None]):
            raise ValueError(f"a labelled dataset has {', '.join(missing)}")
        return self
