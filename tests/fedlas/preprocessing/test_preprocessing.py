"""Image files become exactly the pixels that torchvision makes of them, and whatever is no image is refused by code."""

from __future__ import annotations

import io
import json
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from fedlas.preprocessing import MAX_PIXELS, BadImage, Preprocessing, checked_image, image_facts, preprocess_all
from fedlas.preprocessing import steps as threads
from tests.corpus.images import animated, blank_png, image, photo, rotated_jpeg
from tests.helpers.refusals import refusal

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def referee(content: bytes, spec: dict[str, Any], *, mode: str = "RGB") -> np.ndarray:
    """The array that torchvision's transforms make of the file as Pillow opens it."""
    steps: list[Any] = []
    if "resize" in spec:
        steps.append(transforms.Resize(spec["resize"], InterpolationMode(spec.get("interpolation", "bilinear"))))
    if "crop" in spec:
        steps.append(transforms.CenterCrop(spec["crop"]))
    steps.append(transforms.ToTensor())
    if "mean" in spec:
        steps.append(transforms.Normalize(spec["mean"], spec["std"]))
    return np.asarray(transforms.Compose(steps)(Image.open(io.BytesIO(content)).convert(mode)).numpy())


@pytest.mark.parametrize("size", [(500, 375), (375, 501), (33, 57), (1, 90), (224, 224)], ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos", "box"])
def test_pixels_are_torchvisions(size: tuple[int, int], interpolation: str) -> None:
    """Resize, crop (padded where it is larger), scaling and normalising agree to the last bit, whatever the filter."""
    content = image(photo(*size))
    for shape in ({"resize": 64, "crop": 50}, {"resize": [40, 71]}, {"resize": 30, "crop": [51, 30]}, {"crop": 64}, {}):
        spec = {**shape, "interpolation": interpolation, "mean": MEAN, "std": STD}
        np.testing.assert_array_equal(Preprocessing.parse(spec)(content), referee(content, spec))


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 80),
    height=st.integers(1, 80),
    resize=st.none() | st.integers(1, 60) | st.tuples(st.integers(1, 60), st.integers(1, 60)).map(list),
    crop=st.none() | st.tuples(st.integers(1, 60), st.integers(1, 60)).map(list),
)
def test_any_sizes_are_torchvisions(width: int, height: int, resize: Any, crop: Any) -> None:
    """Odd sizes round as torchvision's do."""
    content = image(photo(width, height))
    spec = {name: value for name, value in {"resize": resize, "crop": crop}.items() if value is not None}
    np.testing.assert_array_equal(Preprocessing.parse(spec)(content), referee(content, spec))


@pytest.mark.parametrize(
    ("content", "channels"),
    [
        (image(photo(), "JPEG"), 3),
        (image(photo(), "JPEG"), 1),
        (image(photo(), "WEBP"), 3),
        (image(photo(), "BMP"), 3),
        (image(photo(), "JPEG", mode="CMYK"), 3),
        (image(photo(), mode="P"), 3),
        (image(photo(), mode="L"), 3),
        (image(photo(), mode="L"), 1),
        (image(photo(), mode="LA"), 1),
        (image(photo(), mode="1"), 1),
        (image(np.dstack([photo(), photo()[..., :1]])), 3),
        (image(np.dstack([photo(), photo()[..., :1]])), 1),
    ],
    ids=[
        "jpeg",
        "jpeg-grey",
        "webp",
        "bmp",
        "cmyk",
        "palette",
        "grey-3",
        "grey",
        "grey-alpha",
        "bits",
        "alpha",
        "alpha-1",
    ],
)
def test_every_mode_is_converted_as_pillow_converts(content: bytes, channels: int) -> None:
    """CMYK, palettes, grey, single bits and transparency (which is dropped) become what `convert` makes of them."""
    made = Preprocessing.parse({"channels": channels, "resize": 12})(content)
    np.testing.assert_array_equal(made, referee(content, {"resize": 12}, mode="L" if channels == 1 else "RGB"))


def test_a_palette_with_transparency_keeps_its_colours() -> None:
    """Transparency of palette entries is dropped without a warning."""
    content = image(photo(), mode="P", transparency=bytes(range(256)))
    np.testing.assert_array_equal(Preprocessing()(content), Preprocessing()(image(photo(), mode="P")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_images_are_upright(orientation: int, format: str) -> None:
    """All eight EXIF orientations are applied, as Pillow's own `exif_transpose` does, in every format that has them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = image(photo(), format, exif=exif.tobytes())
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert upright is not None
    made = Preprocessing.parse({"dtype": "uint8", "layout": "NHWC"})(content)
    np.testing.assert_array_equal(made, np.asarray(upright.convert("RGB")))


@pytest.mark.parametrize(
    "exif", [b"", b"II", b"MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\xff", b"nonsense"]
)
def test_broken_exif_turns_nothing(exif: bytes) -> None:
    """EXIF data that cannot be read leave the image as it is."""
    plain = image(photo())
    body = len(exif).to_bytes(4, "big") + b"eXIf" + exif
    content = plain[:33] + body + zlib.crc32(b"eXIf" + exif).to_bytes(4, "big") + plain[33:]
    np.testing.assert_array_equal(Preprocessing()(content), Preprocessing()(plain))


def test_sixteen_bits() -> None:
    """Greyscale with 16 bits keeps all of them, scaled by 65535, in one channel or in three; resizing averages them."""
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1001
    content = image(pixels)
    one = Preprocessing.parse({"bit_depth": 16, "channels": 1})(content)
    np.testing.assert_array_equal(one, (pixels.astype(np.float32) / np.float32(65535))[None])
    three = Preprocessing.parse({"bit_depth": 16, "mean": 0.5, "std": 0.5})(content)
    np.testing.assert_array_equal(three, np.repeat((one - np.float32(0.5)) / np.float32(0.5), 3, axis=0))
    steps = {"bit_depth": 16, "channels": 1, "resize": 4, "interpolation": "box", "scale": 1}
    halved = Preprocessing.parse(steps)(content)
    np.testing.assert_allclose(halved[0], pixels.reshape(4, 2, 4, 2).mean((1, 3)), rtol=1e-6)


@pytest.mark.parametrize(
    ("spec", "content"),
    [
        ({"channels": 1}, image(np.zeros((4, 4), np.uint16))),
        ({"bit_depth": 16, "channels": 1}, image(photo())),
        ({"bit_depth": 16}, image(photo(), mode="L")),
    ],
)
def test_bit_depths_are_not_mixed_up(spec: dict[str, Any], content: bytes) -> None:
    """16 bits where 8 are expected, and the reverse, would silently be another brightness: refused."""
    with refusal(BadImage, "wrong_bit_depth", "bit_depth"):
        Preprocessing.parse(spec)(content)


def test_layout_order_scale_and_type() -> None:
    """NHWC moves the channels last, BGR turns them, `scale` replaces 1/255 and uint8 leaves pixels as they are."""
    content, pixels = image(photo()), photo()
    as_is = Preprocessing.parse({"dtype": "uint8", "layout": "NHWC"})
    assert (as_is(content).dtype, as_is.dtype) == (np.uint8, "uint8")
    np.testing.assert_array_equal(as_is(content), pixels)
    turned = Preprocessing.parse({"order": "BGR", "scale": 1, "mean": [103, 116, 123], "layout": "NHWC"})(content)
    np.testing.assert_array_equal(turned, pixels[..., ::-1].astype(np.float32) - np.float32([103, 116, 123]))
    scaled = Preprocessing.parse({"scale": 1 / 127.5, "mean": 1, "layout": "NHWC"})(content)
    np.testing.assert_allclose(scaled, pixels / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ({"crop": 224}, (3, 224, 224)),
        ({"resize": [3, 5]}, (3, 3, 5)),
        ({"resize": [3, 5], "crop": [2, 4], "layout": "NHWC", "channels": 1}, (2, 4, 1)),
        ({"resize": 8}, (3, None, None)),
        ({}, (3, None, None)),
    ],
)
def test_the_shape_is_known_before(spec: dict[str, Any], shape: tuple[int | None, ...]) -> None:
    """`shape` is that of every row, as far as it does not depend on the image."""
    steps = Preprocessing.parse(spec)
    assert steps.shape == shape
    made = steps(image(photo()))
    assert all(size in (None, found) for size, found in zip(shape, made.shape, strict=True))
    assert made.dtype == steps.dtype


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"resise": 3}, "resise"),
        ({"resize": 0}, "resize"),
        ({"resize": True}, "resize"),
        ({"resize": 224.0}, "resize"),
        ({"resize": [1, 2, 3]}, "resize"),
        ({"resize": [1, "2"]}, "resize"),
        ({"resize": 10**9}, "resize"),
        ({"crop": -1}, "crop"),
        ({"crop": {}}, "crop"),
        ({"interpolation": "cubic"}, "interpolation"),
        ({"interpolation": ["bilinear"]}, "interpolation"),
        ({"layout": "CHW"}, "layout"),
        ({"channels": 4}, "channels"),
        ({"channels": True}, "channels"),
        ({"channels": 3.0}, "channels"),
        ({"bit_depth": 12}, "bit_depth"),
        ({"mean": [0.5, 0.5]}, "mean"),
        ({"mean": [0.5, 0.5, float("nan")]}, "mean"),
        ({"mean": "0.5"}, "mean"),
        ({"mean": [123.7, 116.3, 103.5]}, "mean"),
        ({"mean": 10**400, "scale": 1}, "mean"),
        ({"std": 0}, "std"),
        ({"std": [1, 1, 1e-50]}, "std"),
        ({"std": [1, 1, 1], "channels": 1}, "std"),
        ({"scale": 0}, "scale"),
        ({"scale": -1}, "scale"),
        ({"scale": float("inf")}, "scale"),
        ({"order": "BGR", "channels": 1}, "order"),
        ({"dtype": "float16"}, "dtype"),
        ({"dtype": "uint8", "mean": 0.5}, "dtype"),
        ({"dtype": "uint8", "bit_depth": 16}, "dtype"),
        ([], "preprocessing"),
        ("resize", "preprocessing"),
    ],
)
def test_what_cannot_be_is_refused_by_field(spec: Any, field: str) -> None:
    """Every wrong field is named first in the message."""
    with pytest.raises(ValueError, match=f"^{field}"):
        Preprocessing.parse(spec)


@pytest.mark.parametrize(
    "spec", [{}, {"resize": 256, "crop": 224, "mean": MEAN, "std": STD}, {"resize": [3, 4], "scale": 1}]
)
def test_json_there_and_back(spec: dict[str, Any]) -> None:
    """`as_dict` is JSON that parses to the same."""
    steps = Preprocessing.parse(spec)
    assert Preprocessing.parse(json.loads(json.dumps(steps.as_dict()))) == steps


def test_null_means_left_out() -> None:
    """A field that is null has its default."""
    assert Preprocessing.parse({"resize": None, "mean": None, "layout": None}) == Preprocessing()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not_an_image"),
        (b"P6 1 1 255\n\0\0\0", "not_an_image"),
        (animated("GIF"), "unsupported_image"),
        (animated("WEBP"), "animated_image"),
        (animated("PNG"), "animated_image"),
        (b"\0\0\0\x1cftypheic" + bytes(40), "unsupported_image"),
        (image(photo())[:60], "corrupt_image"),
        (b"BM" + bytes(80), "corrupt_image"),
        (b"RIFF\x04\0\0\0WEBPVP8L", "corrupt_image"),
    ],
    ids=["empty", "ppm", "gif", "webp", "apng", "heic", "cut", "bmp", "short webp"],
)
def test_what_is_no_picture_is_refused(content: bytes, code: str) -> None:
    """Header, check and preprocessing refuse alike."""
    for read in (checked_image, Preprocessing()):
        with refusal(BadImage, code):
            read(content)


def test_the_blank_png_is_a_picture() -> None:
    """The large images that the corpus is made of are whole: a small one of the kind is read."""
    np.testing.assert_array_equal(Preprocessing(channels=1)(blank_png(900)), np.zeros((1, 900, 900)))


def test_size_is_refused_before_pixels_are_decoded() -> None:
    """81 megapixels, which Pillow itself would decode without a word, and a strip that resizing would blow up."""
    assert image_facts(blank_png(7000)).pixels == 49_000_000 <= MAX_PIXELS
    with refusal(BadImage, "image_too_large", "9000 x 9000"):
        image_facts(blank_png(9000))
    strip = image(np.zeros((1, 5000, 3), np.uint8))
    with pytest.raises(BadImage, match="by resizing"):
        Preprocessing.parse({"resize": 224, "crop": 224})(strip)


@pytest.mark.parametrize("workers", [1, 3])
def test_many_at_once_are_the_same_one_by_one(workers: int) -> None:
    """Threads and a given array change no bit, in any order of completion."""
    files = [image(photo(20 + i % 7, 15 + i % 5, seed=i), "JPEG") for i in range(150)]
    steps = Preprocessing.parse({"resize": 16, "crop": 12, "mean": MEAN, "std": STD})
    wanted = np.stack([steps(file) for file in files])
    np.testing.assert_array_equal(preprocess_all(files, steps, workers=workers), wanted)
    out = np.full((150, 3, 12, 12), np.nan, np.float32)
    assert preprocess_all(files, steps, workers=workers, out=out) is out
    np.testing.assert_array_equal(out, wanted)


def test_the_first_bad_image_is_named() -> None:
    """Whatever thread is quickest, the error is that of the first bad row."""
    files = [image(photo())] * 200
    files[150], files[70], files[71] = b"", b"?", image(photo())[:-30]
    for workers in (1, 4):
        with pytest.raises(BadImage) as caught:
            preprocess_all(files, Preprocessing(), workers=workers)
        assert (caught.value.row, caught.value.code) == (70, "not_an_image")


def test_rows_of_different_shapes_are_refused() -> None:
    """Without resize and crop all images must have one size."""
    with pytest.raises(BadImage, match=r"\(3, 15, 20\).*\(3, 16, 24\)") as caught:
        preprocess_all([image(photo()), image(photo(20, 15))], Preprocessing(), workers=1)
    assert (caught.value.row, caught.value.code) == (1, "wrong_size")


def test_large_images_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads there are, images in work together stay within the limit of one."""
    monkeypatch.setattr(threads, "_SMALL_PIXELS", 0)
    monkeypatch.setattr(threads, "MAX_PIXELS", 1000)
    monkeypatch.setattr(threads, "_BUDGET", threads._PixelBudget())
    monkeypatch.setattr(threads, "_CHUNK", 1)
    at_work, most = [], []

    def work(i: int, content: bytes) -> None:
        at_work.append(i)
        most.append(len(at_work))
        time.sleep(0.002)  # long enough for all threads to arrive
        at_work.remove(i)

    threads.in_parallel([image(photo(24, 16))] * 60, work, workers=8)
    assert len(most) == 60
    assert max(most) <= 1000 // (24 * 16)


def test_turned_jpegs_change_sides() -> None:
    """A camera held upright gives an upright row."""
    assert Preprocessing()(rotated_jpeg(6)).shape == (3, 24, 16)
