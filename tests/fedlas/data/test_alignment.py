"""A dataset fitted to a model: names, shapes, types and classes, or a mismatch that shows both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedlas.contract.profiles import TensorSpec
from fedlas.data import Dataset, align
from fedlas.errors import BadDataset, Mismatch
from tests.helpers.refusals import refusal

TARGETS = np.arange(60) % 3


def dataset(class_names: list[str] | None = None, targets: np.ndarray = TARGETS, **inputs: np.ndarray) -> Dataset:
    return Dataset(
        inputs=inputs or {"x": np.ones((60, 4))},
        targets=targets.astype(np.int64),
        class_names=class_names or [str(i) for i in range(int(targets.max()) + 1)],
        class_names_given=class_names is not None,
        splits=np.zeros(60, np.int8),
    )


def spec(name: str = "input", dtype: str = "float32", shape: tuple[Any, ...] = ("N", 4)) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=list(shape))


def fitted(data: Dataset, *inputs: dict[str, Any], names: list[str] | None = None, num_classes: int = 3) -> Dataset:
    return align(data, model_inputs=inputs or (spec(),), num_classes=num_classes, class_names=names)


def test_the_only_input_fits_under_any_name() -> None:
    """One array and one model input go together, cast to the model's float type."""
    result = fitted(dataset(x=np.full((60, 4), 0.5)))
    assert list(result.inputs) == ["input"]
    assert result.inputs["input"].dtype == np.float32
    assert (result.inputs["input"] == 0.5).all()


def test_inputs_are_ordered_as_the_model_wants() -> None:
    """Several inputs are matched by name, put in the model's order, and the rest is reported."""
    data = dataset(mask=np.ones((60, 5), bool), ids=np.ones((60, 5), np.int32), extra=np.ones(60))
    result = fitted(data, spec("ids", "int64", ("N", "seq")), spec("mask", "int64", ("N", "seq")))
    assert list(result.inputs) == ["ids", "mask"]
    assert {array.dtype.name for array in result.inputs.values()} == {"int64"}
    assert any("'extra'" in warning for warning in result.warnings)


def test_the_usual_name_is_the_single_input() -> None:
    """Beside other arrays, `images` is the input of a model that calls its only input otherwise."""
    assert (fitted(dataset(images=np.zeros((60, 4)), size=np.zeros(60))).inputs["input"] == 0).all()


def test_pixels_are_cast_unscaled() -> None:
    """Bytes 0..255 become floats 0..255."""
    assert fitted(dataset(x=np.full((60, 4), 255, np.uint8))).inputs["input"].max() == 255.0


@pytest.mark.parametrize(
    ("array", "wanted", "words"),
    [
        (np.ones((60, 784)), ("N", 1, 28, 28), r"\(1, 28, 28\)"),
        (np.ones((60, 1, 28, 28)), ("N", 784), r"'N', 1, 28, 28"),
        (np.ones((60, 5)), ("N", 4), r"'N', 5"),
        (np.ones(60), ("N", 1), r"'N',"),
    ],
)
def test_shapes_must_fit(array: np.ndarray, wanted: tuple[Any, ...], words: str) -> None:
    """A flattened image or another width is a mismatch that shows both shapes."""
    with refusal(Mismatch, "inputs_mismatch", words) as caught:
        fitted(dataset(x=array), spec(shape=wanted))
    assert "'input'" in caught.value.message


@pytest.mark.parametrize(
    ("found", "wanted", "words"),
    [
        ((28, 20, 3), (3, 28, 20), "array.transpose(0, 3, 1, 2)"),
        ((3, 28, 20), (28, 20, 3), "array.transpose(0, 2, 3, 1)"),
        ((784,), (1, 28, 28), "reshape every row"),
    ],
)
def test_rows_of_other_axes_are_to_be_transposed(found: tuple[int, ...], wanted: tuple[int, ...], words: str) -> None:
    """Equal sizes in another order name the permutation of NumPy that mends them: to reshape would scramble them."""
    with pytest.raises(Mismatch) as caught:
        fitted(dataset(x=np.ones((60, *found))), spec(shape=("N", *wanted)))
    assert words in caught.value.message
    if "transpose" in words:
        axes = [int(axis) for axis in words.split("(")[1].rstrip(")").split(",")]
        assert np.ones((60, *found)).transpose(axes).shape == (60, *wanted)


@pytest.mark.parametrize("free", ["seq", -1])
def test_symbolic_dimensions_fit_anything(free: object) -> None:
    """A dimension that is no size accepts every size."""
    assert fitted(dataset(x=np.ones((60, 9))), spec(shape=("N", free))).inputs["input"].shape == (60, 9)


def test_names_must_fit() -> None:
    """A missing input is a mismatch that lists both sides."""
    with pytest.raises(Mismatch, match=r"'ids' int64.*'mask' int64.*'ids' int64.*'other'"):
        fitted(dataset(ids=np.ones((60, 4), int), other=np.ones(60)), spec("ids", "int64"), spec("mask", "int64"))


@pytest.mark.parametrize(
    ("array", "dtype", "words"),
    [
        (np.ones((60, 4)), "int64", "float"),
        (np.full((60, 4), 300), "uint8", "300"),
        (np.full((60, 4), -1), "bool", "-1"),
    ],
)
def test_types_must_fit(array: np.ndarray, dtype: str, words: str) -> None:
    """Floats for an integer input, and integers that do not fit the type, are mismatches."""
    with refusal(Mismatch, "inputs_mismatch", words):
        fitted(dataset(x=array), spec(dtype=dtype))


def test_a_number_too_large_for_the_type_is_said() -> None:
    """1e300 is no float32: the row is named."""
    array = np.ones((60, 4))
    array[7, 2] = 1e300
    with refusal(BadDataset, "non_finite", "row 7"):
        fitted(dataset(x=array))


def test_classes_are_mapped_by_name() -> None:
    """Where both sides have names, targets follow the model's order, and fewer classes are fine."""
    result = fitted(dataset(["ant", "bee", "cow"]), names=["cow", "dog", "ant", "bee"], num_classes=4)
    np.testing.assert_array_equal(result.targets, np.array([2, 3, 0])[TARGETS])
    assert result.class_names == ["cow", "dog", "ant", "bee"]


def test_indices_stay_indices() -> None:
    """Integer labels are the model's class numbers, and the model's names go with them."""
    result = fitted(dataset(), names=["cow", "dog", "ant", "bee"], num_classes=4)
    np.testing.assert_array_equal(result.targets, TARGETS)
    assert result.class_names == ["cow", "dog", "ant", "bee"]


def test_the_datasets_names_serve_a_model_without() -> None:
    """A model without names takes the dataset's, where there are as many."""
    assert fitted(dataset(["ant", "bee", "cow"])).class_names == ["ant", "bee", "cow"]


@pytest.mark.parametrize(
    ("data", "names", "num_classes", "words"),
    [
        (dataset(["ant", "bee", "cow"]), ["ant", "bee", "dog"], 3, r"\['cow'\].*ant, bee, dog.*ant, bee, cow"),
        (dataset(["ant", "bee", "cow"]), None, 4, "4 classes, unnamed.*3: ant, bee, cow"),
        (dataset(["ant", "bee", "cow"]), None, 2, "2 classes"),
        (dataset(), None, 2, "row 2 .*label 2, one of 20 rows .*leave these out; .*2 classes.*3: 0, 1, 2"),
    ],
)
def test_classes_must_fit(data: Dataset, names: list[str] | None, num_classes: int, words: str) -> None:
    """Unknown names, more classes than the model, or names that cannot be placed show both sides."""
    with refusal(Mismatch, "class_mismatch", words):
        fitted(data, names=names, num_classes=num_classes)


@pytest.mark.parametrize(
    ("own", "model", "matched_by", "label_names"),
    [
        (["ant", "bee", "cow"], ["cow", "ant", "bee"], "name", None),
        (["ant", "bee", "cow"], None, "index", None),
        (None, ["cow", "ant", "bee"], "index", ["0", "1", "2"]),
        (None, None, "index", ["0", "1", "2"]),
    ],
)
def test_how_labels_became_classes(
    own: list[str] | None, model: list[str] | None, matched_by: str, label_names: list[str] | None
) -> None:
    """Labels are matched by name where both sides gave names; integers mean the model's numbers."""
    result = fitted(dataset(own), names=model)
    assert (result.matched_by, result.label_names) == (matched_by, label_names)


def test_labels_that_start_at_one_are_said_to() -> None:
    """Labels 1 to K of a model with K classes are one too large."""
    with pytest.raises(Mismatch, match=r"the labels start at 1: subtract 1; row 2 .* label 3; the model has 3 classes"):
        fitted(dataset(targets=TARGETS + 1))
