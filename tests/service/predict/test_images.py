"""Image files in a request: the same pixels as in training, or an answer that names the row."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from fedlas.contract.profiles import TensorSpec
from fedlas.data import align_inputs
from fedlas.data.prepared import ImageColumn
from fedlas.preprocessing import Preprocessing
from service.predict.engine.profile import ServingProfile
from service.predict.formats import images as serving
from service.predict.formats.signature import parse_inputs
from service.registry.errors import InvalidRequest, TooLarge
from tests.corpus.images import animated, blank_png, image, photo, rotated_jpeg
from tests.helpers import Json

SPECS = [{"name": "x", "dtype": "float32", "shape": ["N", 3, 8, 8]}]
PREPROCESSING = {"resize": 8, "crop": 8, "mean": [0.5, 0.4, 0.3], "std": 0.25}
FILES = [image(photo()), image(photo(31, 40, seed=1), "JPEG"), rotated_jpeg(), image(photo(), "WEBP"),
         image(photo(), "JPEG", mode="CMYK"), image(photo(9, 9), mode="P")]  # fmt: skip


def b64(content: bytes) -> Json:
    return {"b64": base64.b64encode(content).decode()}


def parse(value: Any, *, preprocessing: Json | None = PREPROCESSING, specs: Any = SPECS) -> dict[str, np.ndarray]:
    return parse_inputs(value, ServingProfile.of({"inputs": specs, "preprocessing": preprocessing}), max_rows=100)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_serving_sees_what_training_saw(dtype: str) -> None:
    """Files through a dataset and through a request are one array to the last bit."""
    specs = [{**SPECS[0], "dtype": dtype}]
    inputs: dict[str, Any] = {"images": ImageColumn.of(FILES)}
    trained = align_inputs(
        inputs, [TensorSpec(**one) for one in specs], preprocessing=Preprocessing.parse(PREPROCESSING)
    )["x"]
    served = parse([b64(file) for file in FILES], specs=specs)["x"]
    assert served.dtype == trained.dtype == np.dtype(dtype)
    assert served.tobytes() == trained.tobytes()


def test_images_beside_other_inputs() -> None:
    """One of several inputs may be images, by name."""
    specs = [*SPECS, {"name": "age", "dtype": "float32", "shape": ["N", 1]}]
    found = parse({"x": [b64(FILES[0])], "age": [[40]]}, specs=specs)
    assert [array.shape for array in found.values()] == [(1, 3, 8, 8), (1, 1)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (b64(b""), "empty"),
        (b64(b"<svg></svg>"), "SVG"),
        (b64(animated("GIF")), "GIF"),
        (b64(FILES[0][:-40]), "corrupt_image"),
        (b64(blank_png(9000)), "9000 x 9000"),
        (b64(image(np.zeros((8, 8), np.uint16))), "bit_depth"),
        ({"b64": "data:image/png;base64,AAAA"}, "Base64"),
        ({"b64": "AAA"}, "Base64"),
        ({"b64": "ÄÖ=="}, "Base64"),
        ({"b64": 3}, '{"b64"'),
        ({"b64": None}, '{"b64"'),
        ({"url": "http://localhost/x.png"}, '{"b64"'),
        ({"b64": "AAAA", "url": "http://localhost/x.png"}, '{"b64"'),
        ({}, '{"b64"'),
    ],
)
def test_bad_images_are_named_by_row(row: Json, words: str) -> None:
    """Whatever is wrong with one image, the answer says which and what."""
    with pytest.raises(InvalidRequest) as caught:
        parse([b64(FILES[0]), row, b64(FILES[1])])
    assert (caught.value.code, caught.value.field) == ("bad_image", "inputs")
    assert caught.value.message.startswith("row 1: ")
    assert words in caught.value.message


def test_an_image_of_another_size() -> None:
    """Where nothing resizes, the answer says how large an image must be and what to add."""
    grey, specs = {"channels": 1}, [{**SPECS[0], "shape": ["N", 1, 8, 8]}]
    assert parse([b64(image(photo(8, 8)))], preprocessing=grey, specs=specs)["x"].shape == (1, 1, 8, 8)
    for rows in ([photo(20, 10)], [photo(20, 10), photo(8, 8)], [photo(8, 8), photo(20, 10)]):
        with pytest.raises(InvalidRequest, match="resize") as caught:
            parse([b64(image(row)) for row in rows], preprocessing=grey, specs=specs)
        assert (caught.value.code, "ONNX" in caught.value.message) == ("bad_image", False)
        assert len(rows) > 1 or "[1, 8, 8]" in caught.value.message


def test_rows_and_images_do_not_mix() -> None:
    """Rows of numbers are taken as they are where there is preprocessing, but not beside images."""
    numbers = np.zeros((3, 8, 8)).tolist()
    assert parse([numbers])["x"].shape == (1, 3, 8, 8)
    with pytest.raises(InvalidRequest, match="row 1 is an object and row 0 is not") as caught:
        parse([numbers, b64(FILES[0])])
    assert caught.value.code == "wrong_inputs"


def test_a_request_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of a file, pixels of all files, and memory of all rows have limits that are checked before decoding."""
    small = b64(FILES[0])
    monkeypatch.setattr(serving, "MAX_IMAGE_BYTES", 100)
    with pytest.raises(InvalidRequest, match="row 0: the file has more than"):
        parse([small])
    monkeypatch.undo()
    monkeypatch.setattr(serving, "MAX_REQUEST_PIXELS", 24 * 16 * 2)
    assert len(parse([small] * 2)["x"]) == 2
    with pytest.raises(TooLarge) as caught:
        parse([small] * 3)
    assert caught.value.code == "too_many_pixels"
    monkeypatch.undo()
    monkeypatch.setattr(serving, "MAX_ROWS_BYTES", 3 * 8 * 8 * 4 * 5)
    assert len(parse([small] * 5)["x"]) == 5
    with pytest.raises(TooLarge, match="6 images in one request; at most 5") as caught:
        parse([small] * 6)
    assert caught.value.code == "too_many_rows"
