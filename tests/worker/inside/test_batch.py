"""Batches inside the sandbox: every row once, in the order of the owner's file, in constant memory, faults by row."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fedlas.contract.options import AnswerOptions
from fedlas.contract.profiles import ModelProfile
from fedlas.data import Dataset, load_dataset, save_dataset
from fedlas.data.arrays import RowReader
from fedlas.data.prepared import ImageColumn
from fedlas.errors import BadDataset, Mismatch
from tests.corpus.images import image, photo
from tests.helpers.documents import MODEL_PROFILE
from tests.helpers.served import lookup, scaling
from worker.documents import BatchOrder, ChildEvent, Reply, RowRange, ShardOrder
from worker.inside import batch, batch_rows
from worker.inside.batch import ahead, predict, predict_shard
from worker.inside.batch_rows import in_file_order

pytestmark = pytest.mark.slow

Json = dict[str, Any]
Told = tuple[BatchOrder, dict[str, Path]]
Array = NDArray[Any]
ROWS = 200
NAMES = ["a", "b"]


def prepared(folder: Path, inputs: Mapping[str, Any], *, splits: Array | None = None) -> Path:
    """The copy that inspection writes of so many rows, sorted by split; without splits they are mixed."""
    count = len(next(iter(inputs.values())))
    drawn = np.random.default_rng(3).integers(-1, 4, count).astype(np.int8) if splits is None else splits
    path = folder / "prepared.npz"
    save_dataset(Dataset(dict(inputs), np.arange(count) % 2, NAMES, True, drawn), path)
    return path


def order(folder: Path, model: bytes, data: Path, inputs: list[Json], **more: Any) -> Told:
    """The request that the child is given."""
    file = folder / "served.onnx"
    file.write_bytes(model)
    profile = model_profile(inputs=inputs, class_names=NAMES, **more.pop("profile", {}))
    errors = more.pop("errors", "fail")
    ordered = BatchOrder(profile=profile, options=AnswerOptions.model_validate(more), errors=errors)
    return ordered, {"model": file, "dataset": data}


def tolerant(ordered: BatchOrder) -> BatchOrder:
    """A copy of the request with errors in their rows."""
    return ordered.model_copy(update={"errors": "column"})


def model_profile(**fields: Any) -> ModelProfile:
    """The profile of a model, with these fields of its own."""
    return ModelProfile.model_validate({**MODEL_PROFILE, **fields})


def spec(dtype: str, *sizes: int | str, name: str = "x") -> Json:
    """One input of a model."""
    return {"name": name, "dtype": dtype, "shape": ["N", *sizes]}


def run(told: Told, folder: Path) -> list[Json]:
    """Predict, and read the file."""
    assert predict(*told, folder, lambda event: None).num_rows == ROWS
    return list(pq.read_table(folder / "results.parquet").to_pylist())


@pytest.fixture(params=[1, 7, 64, 4096])
def step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of so many rows, all read from the file, large or not."""
    monkeypatch.setattr(batch_rows, "_MAX_ROWS", request.param)
    monkeypatch.setattr(batch_rows, "_MAPPED_FROM", 0)
    return int(request.param)


@pytest.mark.parametrize(
    "splits",
    [None, np.zeros(ROWS, np.int8), np.arange(ROWS) // 50, np.arange(ROWS)[::-1] // 50, np.arange(ROWS) == 7],
    ids=["mixed", "one", "sorted", "reversed", "a row apart"],
)
def test_rows_come_in_the_order_of_the_file(tmp_path: Path, step: int, splits: Array | None) -> None:
    """However the copy is sorted, every block holds the next rows of the owner's file, of every input."""
    numbers = np.arange(ROWS)
    inputs = {"x": np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3), "n": numbers, "empty": np.empty((ROWS, 0))}
    path = prepared(tmp_path, inputs, splits=None if splits is None else splits.astype(np.int8))
    dataset = load_dataset(path, mapped_from=0)
    first = 0
    for block in in_file_order(dataset, step):
        assert (block.first_row, set(block)) == (first, set(inputs))
        for name, array in inputs.items():
            np.testing.assert_array_equal(block[name], array[first : first + step])
        first += len(block["n"])
    assert first == ROWS


def test_a_copy_that_lacks_rows_is_an_error(tmp_path: Path) -> None:
    """A copy whose numbers of rows have gaps is a defect of ours, and no reason to make numbers up."""
    dataset = load_dataset(prepared(tmp_path, {"x": np.zeros((ROWS, 2), np.float32)}))
    assert dataset.file_rows is not None
    dataset.file_rows[dataset.file_rows == 5] = ROWS
    with pytest.raises(ValueError, match="rows 0 to 63 once each"):
        next(in_file_order(dataset, 64))


@pytest.mark.usefixtures("step")
def test_values_are_those_of_the_file(tmp_path: Path) -> None:
    """Every row's confidence is what ONNX Runtime computes of that row of the owner's file, in its place."""
    rows = np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32)
    told = order(tmp_path, scaling(2.0), prepared(tmp_path, {"x": rows, "unused": rows}), [spec("float32", 2)])
    found = run(told, tmp_path)
    session = ort.InferenceSession(told[1]["model"], providers=["CPUExecutionProvider"])
    confidence, probs = session.run(["confidence", "probabilities"], {"x": rows})
    assert [row["row"] for row in found] == list(range(ROWS))
    assert [row["index"] for row in found] == probs.argmax(1).tolist()
    np.testing.assert_allclose([row["confidence"] for row in found], confidence, atol=1e-6)


@pytest.mark.usefixtures("step")
def test_other_number_types_are_cast_block_by_block(tmp_path: Path) -> None:
    """Doubles and pixels become the model's floats, and no copy of the dataset is made on the way."""
    for array in (np.random.default_rng(0).normal(size=(ROWS, 2)), np.arange(ROWS * 2).reshape(ROWS, 2) % 256):
        told = order(tmp_path, scaling(0.01), prepared(tmp_path, {"x": array}), [spec("float32", 2)])
        cast = array.astype(np.float32)
        session = ort.InferenceSession(told[1]["model"], providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(
            [row["confidence"] for row in run(told, tmp_path)], session.run(["confidence"], {"x": cast})[0], atol=1e-6
        )
    assert {file.name for file in tmp_path.iterdir()} == {"prepared.npz", "served.onnx", "results.parquet"}


@pytest.mark.usefixtures("step")
def test_images_are_decoded_in_their_places(tmp_path: Path) -> None:
    """Files become the model's rows in the owner's order; one that is broken is named, or has an error of its own."""
    shades = np.random.default_rng(0).permutation(256)[:ROWS]
    files = [image(np.full((1, 2, 3), shade, np.uint8)) for shade in shades]
    expected = 1 / (1 + np.exp(-shades / 255))  # logits 2 · shade and shade
    data = prepared(tmp_path, {"x": ImageColumn.of(files)})
    steps = {"preprocessing": {"channels": 1, "layout": "NCHW"}}
    told = order(tmp_path, _flat(), data, [spec("float32", 1, 1, "width")], profile=steps)
    np.testing.assert_allclose([row["confidence"] for row in run(told, tmp_path)], expected, atol=1e-5)
    for files[77] in (b"no image", image(photo(1, 3))):
        prepared(tmp_path, {"x": ImageColumn.of(files)})
        with pytest.raises(BadDataset, match=r"row 77 \(counted from 0\)"):
            predict(*told, tmp_path, lambda event: None)
    files[0], files[1], files[199] = b"no image", b"", files[199][:40]
    to_predict(tmp_path, {"x": ImageColumn.of(files)})
    found = run((tolerant(told[0]), told[1]), tmp_path)
    assert failures(found) == {0: "not_an_image", 1: "not_an_image", 77: "wrong_size", 199: "corrupt_image"}
    np.testing.assert_allclose([row["confidence"] for row in found[2:77]], expected[2:77], atol=1e-5)


@pytest.mark.parametrize("rows", [[130], [0], [199, 130]])
@pytest.mark.usefixtures("step")
def test_a_refused_row_is_named(tmp_path: Path, rows: list[int]) -> None:
    """ONNX Runtime says no word about rows; the batch finds the first that it cannot compute, and leaves no file."""
    tokens = np.zeros((ROWS, 1), np.int64)
    tokens[rows] = 10
    table = np.eye(3, 2, dtype=np.float32)
    told = order(tmp_path, lookup(table), prepared(tmp_path, {"x": tokens}), [spec("int64", 1)])
    with pytest.raises(Mismatch, match=rf"row {min(rows)} \(counted from 0\)") as caught:
        predict(*told, tmp_path, lambda event: None)
    assert (caught.value.code, caught.value.user_error) == ("inputs_refused", True)
    assert not (tmp_path / "results.parquet").exists()


@pytest.mark.parametrize(
    ("dtype", "value", "bad", "code", "words"),
    [
        (np.float64, 1e300, [131, 150], "non_finite", r"in row 131 \(counted from 0\)"),
        *((np.float32, np.nan, [row], "non_finite_output", rf"^row {row}:") for row in (0, 63, 64, 199)),
    ],
)
@pytest.mark.usefixtures("step")
def test_a_row_without_an_answer_is_named(
    tmp_path: Path, dtype: type, value: float, bad: list[int], code: str, words: str
) -> None:
    """A number that the model's type cannot hold, or the network makes nothing of, ends the batch with the row."""
    rows = np.ones((ROWS, 2), dtype)
    rows[bad, 1] = value
    told = order(tmp_path, scaling(1.0), prepared(tmp_path, {"x": rows}), [spec("float32", 2)])
    with pytest.raises(BadDataset if dtype is np.float64 else Mismatch, match=words) as caught:
        predict(*told, tmp_path, lambda event: None)
    assert caught.value.code == code


def to_predict(folder: Path, inputs: Mapping[str, Any], **more: Any) -> Path:
    """The copy that inspection writes of rows without labels."""
    path, nothing = folder / "prepared.npz", np.empty(0, np.int64)
    save_dataset(Dataset(dict(inputs), nothing, [], False, nothing.astype(np.int8), labelled=False, **more), path)
    return path


def failures(found: list[Json]) -> dict[int, str]:
    """The codes of rows that have an error in place of an answer."""
    answers = [name for name in found[0] if name not in ("row", "id", "error")]
    for row in found:
        assert all((row[name] is None) == (row["error"] is not None) for name in answers), row
    return {row["row"]: row["error"]["code"] for row in found if row["error"] is not None}


@pytest.mark.parametrize("missing", ["reject", "nan"])
@pytest.mark.usefixtures("step")
def test_a_bad_row_has_its_own_error(tmp_path: Path, missing: str) -> None:
    """NaN, infinity, a double that is no float32 and an overflow are errors of their rows; all others are answered."""
    rows = np.random.default_rng(0).normal(size=(ROWS, 2))
    good = order(tmp_path, scaling(2.0), to_predict(tmp_path, {"x": rows}), [spec("float32", 2)], top_k=2)
    expected = run(good, tmp_path)
    bad = {0: np.nan, 63: np.inf, 64: 1e300, 131: 3e38, 132: np.nan, 199: np.nan}
    rows[list(bad), 1] = list(bad.values())
    to_predict(tmp_path, {"x": rows}, reading={"missing": missing}, columns=["age", "dose"])
    with pytest.raises((BadDataset, Mismatch), match=r"row (0|63)\b"):
        predict(*good, tmp_path, lambda event: None)
    told = (tolerant(good[0]), good[1])
    assert predict(*told, tmp_path, lambda event: None).num_errors == len(bad)
    found = list(pq.read_table(tmp_path / "results.parquet").to_pylist())
    nan = "non_finite" if missing == "reject" else "non_finite_output"
    assert failures(found) == {
        **dict.fromkeys((0, 132, 199), nan), 63: "non_finite", 64: "non_finite", 131: "non_finite_output"
    }  # fmt: skip
    assert found[63]["error"]["message"].startswith("'dose' is inf in row 63")
    assert [row for row in found if row["row"] not in bad] == [
        {**row, "error": None} for row in expected if row["row"] not in bad
    ]


def shards(told: Told, borders: list[int]) -> Iterator[tuple[ShardOrder, dict[str, Path]]]:
    """The orders of the shards between these rows."""
    ordered, files = told
    for first, stop in itertools.pairwise(borders):
        shard = RowRange(first_row=first, num_rows=stop - first)
        yield ShardOrder(profile=ordered.profile, options=ordered.options, errors=ordered.errors, shard=shard), files


BORDERS = [0, 1, 63, 130, 199, ROWS]


@pytest.mark.parametrize("labelled", [True, False])
def test_shards_are_the_whole_in_parts(tmp_path: Path, labelled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put together, they have the rows, names and errors of the whole, bad rows at their borders, too; alike again."""
    monkeypatch.setattr(batch_rows, "_MAX_ROWS", 50)
    monkeypatch.setattr(batch_rows, "_MAPPED_FROM", 0)
    tokens = np.random.default_rng(0).integers(0, 3, (ROWS, 1))
    bad = [0, 1, 62, 63, 129, 131, 199]
    tokens[bad] = 10
    path, ids = to_predict(tmp_path, {"x": tokens}, ids=WORDS), WORDS
    if labelled:
        splits = np.random.default_rng(3).integers(-1, 4, ROWS).astype(np.int8)
        save_dataset(Dataset({"x": tokens}, np.arange(ROWS) % 2, NAMES, True, splits, ids=ids), path)
    told = order(tmp_path, lookup(np.eye(3, 2, dtype=np.float32)), path, [spec("int64", 1)], top_k=2)
    lenient = (tolerant(told[0]), told[1])
    whole = run(lenient, tmp_path)
    assert failures(whole) == dict.fromkeys(bad, "inputs_refused")
    found: list[Json] = []
    (first, files), *others = shards(lenient, BORDERS)
    contents: list[list[bytes]] = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        replies = iter([*(Reply(shard=ordered.shard) for ordered, _ in others), Reply()])
        events: list[ChildEvent] = []
        assert predict_shard(first, files, folder, events.append, lambda: next(replies)).num_shards == 5  # noqa: B023
        left = [(event.checkpoint, event.part) for event in events if event.checkpoint is not None]
        contents.append([])
        for (ordered, _), (entry, part) in zip(shards(lenient, BORDERS), left, strict=True):
            rows = ordered.shard.rows
            assert part is not None
            assert (part.num_rows, part.num_errors) == (len(rows), len({*rows} & {*bad}))
            contents[-1].append((folder / batch.PARTS / entry.file).read_bytes())
            found += pq.read_table(folder / batch.PARTS / entry.file).to_pylist()
    assert contents[0] == contents[1]
    assert found == 2 * whole
    for number, shard in enumerate(shards(told, BORDERS)):
        (folder := tmp_path / f"strict {number}").mkdir()
        with pytest.raises(Mismatch, match=rf"^row {min({*shard[0].shard.rows} & {*bad})} "):
            predict_shard(*shard, folder, lambda event: None, Reply)


def test_a_shard_reads_its_own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of a file sorted by split reads no row before it, and none behind it."""
    monkeypatch.setattr(batch_rows, "_MAPPED_FROM", 0)
    rows = np.random.default_rng(0).random((ROWS, 2), np.float32)
    (shard,) = shards(order(tmp_path, scaling(1.0), prepared(tmp_path, {"x": rows}), [spec("float32", 2)]), [120, 160])
    read: list[Array] = []
    get = RowReader.__getitem__

    def spied(reader: RowReader, numbers: slice | NDArray[np.int64]) -> Array:
        read.append(get(reader, numbers))
        return read[-1]

    monkeypatch.setattr(RowReader, "__getitem__", spied)
    predict_shard(*shard, tmp_path, lambda event: None, Reply)
    values = np.concatenate([array for array in read if array.ndim == 2])
    np.testing.assert_array_equal(np.sort(values[:, 0]), np.sort(rows[120:160, 0]))


@pytest.mark.parametrize(("columns", "words"), [(["a", "b"], "'b' is"), (["a"], "'x' is"), (None, "'x' is")])
def test_a_bad_number_is_named(tmp_path: Path, columns: list[str] | None, words: str) -> None:
    """The name is the column where it is the input's own, else the input and its position."""
    rows = np.ones((ROWS, 2), np.float32)
    rows[7, 1] = np.nan
    told = order(tmp_path, scaling(1.0), to_predict(tmp_path, {"x": rows}, columns=columns), [spec("float32", 2)])
    with pytest.raises(BadDataset, match=f"^{words} empty or NaN in row 7"):
        predict(*told, tmp_path, lambda event: None)


@pytest.mark.parametrize("options", [{}, {"top_k": 2, "decision": {"costs": [[0, 1], [10, 0]]}}], ids=str)
@pytest.mark.usefixtures("step")
def test_where_no_row_can_be_answered_all_have_errors(tmp_path: Path, options: Json) -> None:
    """A file of nothing but bad rows has the columns of any other."""
    tokens = np.full((ROWS, 1), 10)
    table = np.eye(3, 2, dtype=np.float32)
    path = to_predict(tmp_path, {"x": tokens})
    told = order(tmp_path, lookup(table), path, [spec("int64", 1)], errors="column", **options)
    assert failures(run(told, tmp_path)) == dict.fromkeys(range(ROWS), "inputs_refused")
    told = order(
        tmp_path,
        scaling(1.0),
        to_predict(tmp_path, {"x": np.full((ROWS, 1), np.nan)}),
        [spec("float32", "sizes")],
        errors="column",
        **options,
    )
    assert failures(run(told, tmp_path)) == dict.fromkeys(range(ROWS), "non_finite")


WORDS = np.array([f"no {i}" for i in range(ROWS)])


@pytest.mark.parametrize("ids", [np.arange(ROWS)[::-1], WORDS, WORDS.astype("S")], ids=["numbers", "text", "bytes"])
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.usefixtures("step")
def test_rows_have_their_names(tmp_path: Path, ids: Array, labelled: bool) -> None:
    """The owner's name of every row stands beside its number, however the copy is sorted, in rows with errors too."""
    rows = np.ones((ROWS, 2), np.float32)
    path = to_predict(tmp_path, {"x": rows}, ids=ids)
    if labelled:
        splits = np.random.default_rng(3).integers(-1, 4, ROWS).astype(np.int8)
        save_dataset(Dataset({"x": rows}, np.arange(ROWS) % 2, NAMES, True, splits, ids=ids), path)
    found = run(order(tmp_path, scaling(1.0), path, [spec("float32", 2)]), tmp_path)
    assert [list(row)[:2] for row in found] == [["row", "id"]] * ROWS
    assert [row["id"] for row in found] == (ids.tolist() if ids.dtype.kind == "i" else WORDS.tolist())


def test_a_model_of_other_inputs_fails_the_batch(tmp_path: Path) -> None:
    """A fault of every row is no error of rows."""
    rows = np.ones((ROWS, 3), np.float32)
    told = order(tmp_path, scaling(1.0), to_predict(tmp_path, {"x": rows}), [spec("float32", 2)])
    with pytest.raises(Mismatch, match="does not fit") as caught:
        predict(tolerant(told[0]), told[1], tmp_path, lambda event: None)
    assert caught.value.code == "inputs_mismatch"


def test_what_is_too_much_at_once_is_computed_in_parts(tmp_path: Path) -> None:
    """A network that takes one row at a time only gives every row its answer."""
    rows = np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32)
    told = order(tmp_path, _one_by_one(), prepared(tmp_path, {"x": rows}), [spec("float32", 2)])
    expected = 1 / (1 + np.exp(-np.abs(rows[:, 0] - rows[:, 1])))
    np.testing.assert_allclose([row["confidence"] for row in run(told, tmp_path)], expected, atol=1e-6)


def test_blocks_are_sized_by_what_rows_take(tmp_path: Path) -> None:
    """Rows of large images, of many classes and of tokens come in smaller blocks than rows of a few numbers."""

    def size(array: Array, *sizes: int, classes: int = 2) -> int:
        profile = model_profile(inputs=[spec(array.dtype.name, *sizes)], class_names=[str(k) for k in range(classes)])
        return next(batch_rows.ModelRows(prepared(tmp_path, {"x": array}), profile).blocks(range(len(array)))).count

    small = np.zeros((6000, 2), np.float32)
    assert size(small, 2) == 4096
    assert size(small, 2, classes=1000) == (1 << 22) // 32008
    assert size(np.zeros((100, 256, 256), np.float32), 256, 256) == 15
    assert size(np.zeros((100, 64), np.int64), 64) == 15
    assert size(np.zeros((2, 1 << 21), np.float32), 1 << 21) == 1
    noise = image(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    steps = {"channels": 1, "resize": [1, 2], "layout": "NCHW"}
    profile = model_profile(inputs=[spec("float32", 1, 1, 2)], class_names=NAMES, preprocessing=steps)
    path = prepared(tmp_path, {"x": ImageColumn.of([noise] * 30)})
    block = next(batch_rows.ModelRows(path, profile).blocks(range(30)))
    assert (block.first_row, len(block.inputs["x"])) == (0, (1 << 22) // (len(noise) + 8 + 64))


def test_progress_is_told_about_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the blocks are, the supervisor hears of few of them, and of the end."""
    monkeypatch.setattr(batch_rows, "_MAX_ROWS", 10)
    rows = np.ones((ROWS, 2), np.float32)
    told = order(tmp_path, scaling(1.0), prepared(tmp_path, {"x": rows}), [spec("float32", 2)])
    moments = iter(0.1 * i for i in range(1000))
    monkeypatch.setattr(
        batch, "time", SimpleNamespace(monotonic=lambda: next(moments))
    )  # other threads have the real one
    events: list[ChildEvent] = []
    predict(*told, tmp_path, events.append)
    progress = [event.progress for event in events if event.progress is not None]
    shares = [one.fraction for one in progress]
    assert shares == sorted(shares)
    assert (len(shares), shares[-1]) == (2, 1.0)
    assert [one.eta_seconds for one in progress] == [1.0, 0.0]


def test_ahead_gives_the_same() -> None:
    """The next item is made by one thread at a time; an error comes where its item would, and no thread stays."""
    before = threading.active_count()

    def items() -> Iterator[int]:
        yield from range(1, 6)
        raise ValueError("six")

    found: list[int] = []
    with pytest.raises(ValueError, match="six"):
        found.extend(ahead(items()))
    assert found == [1, 2, 3, 4, 5]
    endless = ahead(itertools.count(1))
    assert [next(endless) for _ in range(3)] == [1, 2, 3]
    endless.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


CHILD = """
import json, sys
from pathlib import Path
from worker.documents import BatchOrder
from worker.inside.batch import predict
folder = Path(sys.argv[1])
order = BatchOrder.model_validate_json((folder / "order.json").read_bytes())
files = {"model": folder / "served.onnx", "dataset": folder / "prepared.npz"}
predict(order, files, folder, lambda event: None)
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Ten times the rows, 230 MB more, take no more memory than a fraction of that."""
    peaks = []
    for count in (100_000, 1_000_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        rows = np.random.default_rng(0).random((count, 64), np.float32)
        told = order(folder, _first_two(), prepared(folder, {"x": rows}), [spec("float32", 64)])
        (folder / "order.json").write_text(told[0].model_dump_json())
        child = subprocess.run([sys.executable, "-c", CHILD, str(folder)], capture_output=True, text=True, check=True)
        peaks.append(int(child.stdout))
        (folder / "prepared.npz").unlink()
    assert peaks[1] - peaks[0] < 64 * 2**20


def _graph(nodes: list[onnx.NodeProto], sizes: list[int | str], weights: Mapping[str, Array]) -> bytes:
    """logits as these nodes make them, and the other standard outputs."""
    tail = [
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ReduceMax", ["probabilities", "axis"], ["confidence"], keepdims=0),
    ]
    outputs = [
        *(helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in ("logits", "probabilities")),
        helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["N"]),
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in {**weights, "axis": np.array([1])}.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *sizes])]
    graph = helper.make_graph([*nodes, *tail], "g", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _one_by_one() -> bytes:
    """logits = x, by a graph that the exporter has fixed to one row."""
    return _graph([helper.make_node("Reshape", ["x", "shape"], ["logits"])], [2], {"shape": np.array([1, 2])})


def _first_two() -> bytes:
    """logits = the first two of 64 numbers."""
    weight = np.eye(64, 2, dtype=np.float32)
    return _graph([helper.make_node("MatMul", ["x", "weight"], ["logits"])], [64], {"weight": weight})


def _flat() -> bytes:
    """logits = 2 and 1 times the mean of an image (N, 1, 1, any)."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
    ]
    return _graph(nodes, [1, 1, "width"], {"axes": np.array([2, 3]), "weight": np.array([[2, 1]], dtype=np.float32)})
