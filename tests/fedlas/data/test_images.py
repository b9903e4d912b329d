"""Zips of images become columns of files, and files become the rows of a model; bad zips are refused by code."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlas.contract.profiles import TensorSpec
from fedlas.data import align, align_inputs, load_dataset, read_dataset, save_dataset
from fedlas.data.alignment import check_preprocessing
from fedlas.data.arrays import ArrayFactory
from fedlas.data.formats.image_folder import ImageFolderReader
from fedlas.data.prepared import ImageColumn
from fedlas.errors import BadDataset, Mismatch
from fedlas.preprocessing import Preprocessing
from tests.corpus.images import Entry, image, photo, zip_of
from tests.helpers.refusals import refusal

SPEC = TensorSpec(name="x", dtype="float32", shape=["N", 3, 8, 8])
STEPS = Preprocessing.parse({"resize": 8, "crop": 8, "mean": 0.5, "std": 0.25})


def written(folder: Path, names: list[str], *, metadata: str | None = None, where: str = "metadata.csv") -> Path:
    """A zip with another image under every name, the i-th of seed i."""
    entries = [Entry(name.encode(), image(photo(10, 12, seed=i))) for i, name in enumerate(names)]
    if metadata is not None:
        entries.append(Entry(where.encode(), metadata.encode()))
    path = folder / "images.zip"
    path.write_bytes(zip_of(entries))
    return path


def columns_of(path: Path, *, scratch: Path | None = None) -> dict[str, Any]:
    reader = ImageFolderReader(path, scratch=scratch, purpose="fit")
    found = reader.read([name for name in reader.names if name != "file_name"], ArrayFactory(scratch))
    return {**found.inputs, **found.named}


def files(folder: Path, *names: str, **options: Any) -> dict[str, Any]:
    return columns_of(written(folder, list(names), **options))


def test_folders_are_classes(tmp_path: Path) -> None:
    """`class/image` gives labels; the files are kept as they were sent, in the archive's order."""
    found = files(tmp_path, "dog/1.png", "cat/1.png", "cat/2.png")
    assert list(found) == ["images", "label"]
    assert found["label"].tolist() == ["dog", "cat", "cat"]
    assert [found["images"][i] for i in range(3)] == [image(photo(10, 12, seed=i)) for i in range(3)]


@pytest.mark.parametrize("wrapper", ["", "photos/", "Bilder für uns/of 2026 at 3:04\u202fPM/"])
def test_folders_are_splits(tmp_path: Path, wrapper: str) -> None:
    """`split/class/image` gives both, also inside folders that say nothing; what systems add is passed over."""
    litter = ["__MACOSX/a/._1.png", f"{wrapper}train/cat/.DS_Store", f"{wrapper}train/cat/Thumbs.db"]
    found = files(tmp_path, *(wrapper + name for name in ("train/cat/1.png", "test/dog/1.png")), *litter)
    assert (found["split"].tolist(), found["label"].tolist()) == (["train", "test"], ["cat", "dog"])


@pytest.mark.parametrize("flags", [0, 0x800], ids=["as macOS writes it", "as UTF-8"])
def test_names_with_accents(tmp_path: Path, flags: int) -> None:
    """UTF-8 that is not marked as such, with accents apart from their letters, means the same class names."""
    names = [unicodedata.normalize("NFD", name).encode() for name in ("Hühner/1.png", "Kühe/1.png")]
    metadata = Entry(b"metadata.csv", "file_name,group\nHühner/1.png,1\nKühe/1.png,2\n".encode())
    path = tmp_path / "images.zip"
    path.write_bytes(zip_of([*(Entry(name, image(photo()), flags=flags) for name in names), metadata]))
    assert columns_of(path)["label"].tolist() == ["Hühner", "Kühe"]


def test_a_zip_of_one_split_only(tmp_path: Path) -> None:
    """A folder called train at the top is a split, not a wrapper."""
    assert files(tmp_path, "train/cat/1.png", "train/dog/1.png")["split"].tolist() == ["train", "train"]


def test_metadata_follows_the_images(tmp_path: Path) -> None:
    """Rows of metadata.csv are put in the order of the images, typed as any csv, under their own names."""
    metadata = "file_name,group,age\ncat/2.png,ann,30\ndog/1.png,bob,40\ncat/1.png,ann,\n"
    found = files(tmp_path, "dog/1.png", "cat/1.png", "cat/2.png", metadata=metadata)
    assert found["group"].tolist() == ["bob", "ann", "ann"]
    np.testing.assert_array_equal(found["age"], [40, np.nan, 30])
    assert found["label"].tolist() == ["dog", "cat", "cat"]


def test_metadata_says_label_and_split(tmp_path: Path) -> None:
    """With a label in metadata.csv images may lie anywhere beside it, and its columns stand above folders."""
    metadata = "file_name,label,split\n1.png,cat,train\n2.png,dog,test\n"
    found = files(tmp_path, "a/1.png", "a/2.png", metadata=metadata, where="a/metadata.csv")
    assert (found["label"].tolist(), found["split"].tolist()) == (["cat", "dog"], ["train", "test"])
    metadata = "file_name,label\ntrain/1.png,cat\ntest/2.png,dog\n"
    found = files(tmp_path, "train/1.png", "test/2.png", metadata=metadata)
    assert (found["label"].tolist(), found["split"].tolist()) == (["cat", "dog"], ["train", "test"])


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("file_name,group\ncat/1.png,1\n", "'dog/1.png' has no row"),
        ("file_name,group\ncat/1.png,1\ndog/1.png,1\ndog/2.png,1\n", "'dog/2.png' is not in the archive"),
        ("file_name,group\ncat/1.png,1\ndog/1.png,1\ndog/1.png,2\n", "'dog/1.png' has two rows"),
        ("file_name,images\ncat/1.png,1\ndog/1.png,1\n", "images"),
    ],
)
def test_metadata_must_fit(tmp_path: Path, metadata: str, words: str) -> None:
    """Every image has exactly one row."""
    with refusal(BadDataset, "bad_metadata", words):
        files(tmp_path, "cat/1.png", "dog/1.png", metadata=metadata)


def test_unknown_split_folders_are_named(tmp_path: Path) -> None:
    """`val` is no split of ours: the four words are listed."""
    with refusal(BadDataset, "unknown_split", r"calibration.*'val'"):
        read_dataset(written(tmp_path, ["train/cat/1.png", "val/dog/1.png"]))


def test_remarks_on_sizes_and_modes(tmp_path: Path) -> None:
    """Different sizes and modes are reported once, with numbers, for the owner of the preprocessing."""
    entries = [Entry(f"cat/{i}.png".encode(), image(photo(8 + i % 3, 9, seed=i))) for i in range(9)]
    entries.append(Entry(b"cat/deep.png", image(np.zeros((30, 40), np.uint16))))
    path = tmp_path / "images.zip"
    path.write_bytes(zip_of(entries))
    sizes, modes, deep = columns_of(path)["images"].warnings
    assert "4 different sizes, from 8 x 9 to 40 x 30 pixels (3 of 10 are 8 x 9)" in sizes
    assert "9 RGB, 1 I;16" in modes
    assert '1 of 10 images are greyscale with 16 bits, which take "bit_depth": 16' in deep


def test_many_bytes_go_to_the_scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit of memory the files stand in one mapped file, and are the same."""
    path = written(tmp_path, [f"cat/{i}.png" for i in range(40)])
    small = columns_of(path, scratch=tmp_path)["images"]
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.setattr("fedlas.data.arrays.MEMORY_BYTES", 1000)
    large = columns_of(path, scratch=tmp_path)["images"]
    assert len(list(tmp_path.iterdir())) == 2
    assert isinstance(small, ImageColumn)
    assert isinstance(large, ImageColumn)
    assert isinstance(large.data, np.memmap)
    assert [*large] == [*small] == [image(photo(10, 12, seed=i)) for i in range(40)]


def test_more_members_than_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory itself is counted, whatever the end record says."""
    monkeypatch.setattr("fedlas.data.file_format.MAX_MEMBERS", 50)
    path = tmp_path / "images.zip"
    path.write_bytes(zip_of([Entry(b"%d" % i) for i in range(51)], claimed_count=1))
    with refusal(BadDataset, "archive_too_large"):
        columns_of(path)


def test_selected_images() -> None:
    """Rows of a column may be chosen by slices, numbers and masks, again and again, as those of an array."""
    contents = [b"%d" % i * (i + 1) for i in range(10)]
    column = ImageColumn.of(contents)
    array = np.arange(10)
    for rows in (slice(2, 9, 3), [3, 1, 1], array[::-1], array % 2 == 0, np.array([], np.int64)):
        chosen = column[rows]
        wanted = [contents[i] for i in array[rows]]
        assert ([*chosen], len(chosen), chosen.shape) == (wanted, len(wanted), (len(wanted),))
        assert chosen.data.tobytes() == b"".join(wanted)
        assert chosen.offsets.tolist() == np.cumsum([0, *map(len, wanted)]).tolist()
        assert [*chosen[::-1]] == wanted[::-1]
    assert column[[7, 3]][1:].place(0) == 3


def digits_like(folder: Path) -> Path:
    """Images with all splits, enough of each."""
    counts = {"train": 20, "calibration": 12, "test": 12}
    return written(folder, [f"{split}/{i % 2}/{i}.png" for split, count in counts.items() for i in range(count)])


def test_prepared_images_become_pixels(tmp_path: Path) -> None:
    """A zip becomes a prepared copy and then the model's rows: exactly what the preprocessing makes of each file."""
    save_dataset(read_dataset(digits_like(tmp_path)), tmp_path / "prepared.npz")
    dataset = load_dataset(tmp_path / "prepared.npz")
    classes = {"num_classes": 2, "class_names": None}
    aligned = align(dataset, model_inputs=[SPEC], preprocessing=STEPS, **classes)
    wanted = np.stack([STEPS(image(photo(10, 12, seed=int(i)))) for i in dataset.in_file(np.arange(len(dataset)))])
    np.testing.assert_array_equal(aligned.inputs["x"], wanted)
    assert dataset.profile()["inputs"] == [{"name": "images", "dtype": "image", "shape": ["N"]}]


def test_pixels_in_the_scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows larger than memory are written in pieces and mapped; rows of numbers that must be cast too."""
    images = ImageColumn.of([image(photo(seed=i)) for i in range(50)])
    numbers: NDArray[np.float64] = np.random.default_rng(0).normal(size=(50, 3, 8, 8))
    inputs: dict[str, Any] = {"images": images}
    wanted = align_inputs(inputs, [SPEC], preprocessing=STEPS)["x"]
    monkeypatch.setattr("fedlas.data.arrays.MEMORY_BYTES", 1000)
    monkeypatch.setattr("fedlas.data.alignment.MEMORY_BYTES", 1000)
    monkeypatch.setattr("fedlas.data.alignment._BLOCK_BYTES", 7000)
    found = align_inputs(inputs, [SPEC], preprocessing=STEPS, scratch=tmp_path)["x"]
    cast = align_inputs({"x": numbers}, [SPEC], preprocessing=STEPS, scratch=tmp_path)["x"]
    assert isinstance(found, np.memmap)
    assert isinstance(cast, np.memmap)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(cast, numbers.astype(np.float32))


def test_half_precision_models(tmp_path: Path) -> None:
    """Pixels are cast to the model's float width."""
    images: dict[str, Any] = {"images": ImageColumn.of([image(photo())] * 3)}
    found = align_inputs(images, [SPEC.changed(dtype="float16")], preprocessing=STEPS)["x"]
    np.testing.assert_array_equal(found[0], STEPS(image(photo())).astype(np.float16))


def test_images_need_preprocessing() -> None:
    """A model that does not say how images become its input is refused, with an example of what to send."""
    images: dict[str, Any] = {"images": ImageColumn.of([image(photo())])}
    with refusal(Mismatch, "preprocessing_needed", r'\'x\' float32.*preprocessing=\{"resize": 256'):
        align_inputs(images, [SPEC])


@pytest.mark.parametrize(
    ("given", "spec", "words"),
    [
        ({"crop": 9}, SPEC, r"\(3, 9, 9\)"),
        ({"crop": 8, "channels": 1}, SPEC, r"\(1, 8, 8\)"),
        ({"crop": 8, "layout": "NHWC"}, SPEC, 'say "layout": "NCHW"'),
        ({"crop": 8}, SPEC.changed(dtype="uint8"), 'say "dtype": "uint8"'),
        ({"crop": 8}, SPEC.changed(shape=["N", 192]), "192"),
    ],
)
def test_preprocessing_must_fit_the_model(given: dict[str, Any], spec: dict[str, Any], words: str) -> None:
    """Shapes and types that cannot fit are refused before an image is decoded, with what to change."""
    steps = Preprocessing.parse(given)
    images: dict[str, Any] = {"images": ImageColumn.of([b"not even an image"])}
    with refusal(Mismatch, "inputs_mismatch", words):
        align_inputs(images, [spec], preprocessing=steps)
    with refusal(Mismatch, "preprocessing_mismatch", words):
        check_preprocessing(steps, [spec])


def test_preprocessing_that_fits_some_input() -> None:
    """One image input beside others is enough; free sizes fit."""
    check_preprocessing(STEPS, [SPEC.changed(shape=["N", 5]), SPEC])
    check_preprocessing(Preprocessing(), [SPEC.changed(shape=["N", 3, "h", "w"])])


def test_images_of_another_size_are_named() -> None:
    """An image that does not become the model's shape is refused with its row in the owner's file."""
    images = ImageColumn.of([image(photo(8, 8)), image(photo(8, 8)), image(photo(9, 8)), image(photo(8, 8))])
    chosen: dict[str, Any] = {"images": images[[3, 2, 1]]}
    with refusal(BadDataset, "wrong_size", r"row 2 .*\(3, 8, 9\).*\(3, 8, 8\)"):
        align_inputs(chosen, [SPEC], preprocessing=Preprocessing())


def test_sizes_may_follow_from_the_first_image() -> None:
    """Where neither the model nor the preprocessing fixes the size, the images do, if they all have one."""
    images: dict[str, Any] = {"images": ImageColumn.of([image(photo(seed=i)) for i in range(3)])}
    spec = SPEC.changed(shape=["N", 3, "h", "w"])
    assert align_inputs(images, [spec], preprocessing=Preprocessing())["x"].shape == (3, 3, 16, 24)
