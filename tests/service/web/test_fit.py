"""The fit of a model and a dataset, as their records tell it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from service.registry.contract import DatasetRecord, ModelRecord
from service.registry.documents import TensorSpec
from service.web.orders import misfits

FILE = {"name": "f", "bytes": 1, "sha256": "0" * 64, "status": "ready", "created_at": datetime(2026, 1, 1, tzinfo=UTC)}


def tensors(**shapes: list[int | str]) -> list[TensorSpec]:
    return [TensorSpec(name=name, dtype="float32", shape=["N", *shape]) for name, shape in shapes.items()]


def model(classes: list[str], **inputs: list[int | str]) -> ModelRecord:
    kind: dict[str, Any] = {"id": "mdl_1", "version": 1, "origin": "uploaded", "format": "onnx", "calibrated": False}
    found = {"class_names": classes, "num_classes": len(classes), "inputs": tensors(**(inputs or {"x": [4]}))}
    return ModelRecord(**FILE, **kind, **found)


def dataset(classes: list[str], **inputs: list[int | str]) -> DatasetRecord:
    found = {"class_names": classes, "num_classes": len(classes), "inputs": tensors(**(inputs or {"x": [4]}))}
    return DatasetRecord(**FILE, id="ds_1", format="npz", purpose=None, labelled=True, **found)


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


@pytest.mark.parametrize(
    ("sent", "rows"),
    [
        (model(["cat", "dog"]), dataset(["dog"])),
        (model(numbers(2)), dataset(["cat", "dog"])),
        (model(numbers(3)), dataset(["0", "2"])),
        (model(["cat", "dog"]), dataset(["0", "1"])),
        (model(["²", "³"]), dataset(["0", "1"])),
        (model(numbers(2), image=["H", "W"]), dataset(numbers(2), x=[8, 8])),
        (model(numbers(2), ids=[4], mask=[4]), dataset(numbers(2), mask=[4], ids=[4], more=[1])),
    ],
)
def test_what_fits_is_not_talked_about(sent: ModelRecord, rows: DatasetRecord) -> None:
    """Fewer classes, numbers for names, free dimensions, and inputs that a model does not take."""
    assert misfits(sent, rows) == []


@pytest.mark.parametrize(
    ("sent", "rows", "said"),
    [
        (model(["cat", "dog"]), dataset(["cat", "cow"]), "does not know the class 'cow'"),
        (model(numbers(3)), dataset(["cat", "dog"]), "2 named classes and the model 3 unnamed ones"),
        (model(numbers(2)), dataset(["1", "2"]), "Labels seem to begin at one: subtract 1."),
        (model(numbers(2), x=[1, 8, 8]), dataset(numbers(2), x=[8, 8, 1]), "transpose each of them to 1 × 8 × 8"),
        (model(numbers(2), x=[64]), dataset(numbers(2), x=[8, 8]), "reshape each of them to 64"),
        (model(numbers(2), ids=[4], mask=[4]), dataset(numbers(2), ids=[4]), "the dataset has no 'mask'"),
    ],
)
def test_what_does_not_fit_is_told_with_its_remedy(sent: ModelRecord, rows: DatasetRecord, said: str) -> None:
    """One sentence on what differs and what to do."""
    [sentence] = misfits(sent, rows)
    assert said in sentence


def test_many_classes_take_no_time() -> None:
    """A hundred thousand names on either side, none of which the other knows."""
    left, right = ([f"{side}{number}" for number in range(100_000)] for side in "ab")
    assert "and 99,992 more" in misfits(model(left), dataset(right))[0]
