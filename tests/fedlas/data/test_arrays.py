"""Arrays on disk: written in any order, read where they lie, fed to a network without being held, and free of torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fedlas.data import SPLITS, Dataset, load_dataset, save_dataset
from fedlas.data.arrays import RowReader, pieces, read_arrays, release, write_arrays
from fedlas.losses import FedLASLoss
from fedlas.training.fit import fit, predict_logits
from fedlas.training.loop import Loader, TrainConfig
from tests.helpers.small_classifier import SmallClassifier

RNG = np.random.default_rng(0)
ARRAYS = {
    "x": RNG.standard_normal((200, 7)).astype(np.float32),
    "odd/name": RNG.integers(0, 255, (200, 3), dtype=np.uint8),
    "text": np.array(["a", "längere", "語"] * 66 + ["", "b"]),
    "single": np.array("one value"),
    "other": np.arange(5),
    "empty": np.empty((0, 4)),
}


@pytest.mark.parametrize("mapped_from", [0, 1 << 40], ids=["mapped", "in memory"])
def test_arrays_come_back_in_the_order_asked_for(tmp_path: Path, mapped_from: int) -> None:
    """Arrays as long as the order are written in it, others as they are, by name; numpy's own reader agrees."""
    order = RNG.permutation(200)
    write_arrays(tmp_path / "a.npz", ARRAYS, order=order)
    found = read_arrays(tmp_path / "a.npz", mapped_from=mapped_from)
    with np.load(tmp_path / "a.npz") as referee:
        assert set(found) == set(referee.files) == set(ARRAYS)
        for name, array in ARRAYS.items():
            expected = array[order] if array.shape[:1] == (200,) else array
            np.testing.assert_array_equal(found[name], expected)
            np.testing.assert_array_equal(referee[name], expected)
    assert isinstance(found["x"], np.memmap) == (mapped_from == 0)
    if mapped_from == 0:
        assert found["x"].ctypes.data % 64 == 0, "mapped arrays are aligned for every type"


def test_what_numpy_wrote_is_read(tmp_path: Path) -> None:
    """Copies of an earlier release, whose arrays begin anywhere, and Fortran order, are read with equal values."""
    arrays = {"x": ARRAYS["x"], "f": np.asfortranarray(ARRAYS["x"])}
    np.savez(tmp_path / "old.npz", **arrays)
    for name, array in read_arrays(tmp_path / "old.npz", mapped_from=0).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_given_back_pages_are_read_again(tmp_path: Path) -> None:
    """Releasing changes no value, of the array or of a slice of it, and does nothing to arrays in memory."""
    write_arrays(tmp_path / "a.npz", ARRAYS)
    part = read_arrays(tmp_path / "a.npz", mapped_from=0)["x"][20:50]
    release(part)
    np.testing.assert_array_equal(part, ARRAYS["x"][20:50])
    copy = ARRAYS["x"].copy()
    release(copy)
    np.testing.assert_array_equal(copy, ARRAYS["x"])


def test_rows_are_read_from_the_file(tmp_path: Path) -> None:
    """Any choice of rows of a mapped array, or of a part of it, comes as if indexed; other arrays are refused."""
    write_arrays(tmp_path / "a.npz", ARRAYS)
    mapped = read_arrays(tmp_path / "a.npz", mapped_from=0)["x"]
    rows = np.array([3, 0, 29, 3])
    for array in (mapped, mapped[20:50]):
        reader = RowReader(array)
        np.testing.assert_array_equal(reader[rows], array[rows])
        np.testing.assert_array_equal(reader[5:11], array[5:11])
        assert len(reader[7:7]) == 0
    for other in (ARRAYS["x"], mapped[::2], mapped[:, :3]):
        with pytest.raises(ValueError, match="must be mapped from a file"):
            RowReader(other)


def test_pieces_are_the_whole() -> None:
    """Pieces side by side are the array, or its rows in the order asked for."""
    array = np.arange(3 << 24, dtype=np.int32).reshape(-1, 4)  # three pieces
    parts = list(pieces(array))
    assert len(parts) == 3
    np.testing.assert_array_equal(np.concatenate(parts), array)
    rows = np.arange(len(array))[::-1][:100]
    np.testing.assert_array_equal(np.concatenate(list(pieces(array, rows))), array[rows])


def _dataset(num_rows: int = 400) -> Dataset:
    targets = RNG.integers(0, 3, num_rows)
    x = (np.eye(3)[targets] + RNG.standard_normal((num_rows, 3))).astype(np.float32)
    splits = RNG.integers(0, 4, num_rows).astype(np.int8)
    return Dataset({"x": x}, targets, list("abc"), True, splits, weights=RNG.random(num_rows), ids=np.arange(num_rows))


def test_the_prepared_copy_keeps_rows_together(tmp_path: Path) -> None:
    """Inputs, targets, weights and ids of a row stay one row; splits lie side by side, so selecting copies nothing."""
    dataset = _dataset()
    save_dataset(dataset, tmp_path / "d")
    copy = load_dataset(tmp_path / "d", mapped_from=0)
    assert copy.ids is not None
    assert copy.weights is not None
    rows = np.asarray(copy.ids)
    np.testing.assert_array_equal(copy.inputs["x"], dataset.inputs["x"][rows])
    np.testing.assert_array_equal(copy.targets, dataset.targets[rows])
    np.testing.assert_array_equal(copy.weights, np.asarray(dataset.weights)[rows])
    np.testing.assert_array_equal(copy.in_file(np.arange(400)), rows)
    for split in SPLITS:
        selected, targets = copy.select(split)
        expected, expected_targets = dataset.select(split)
        np.testing.assert_array_equal(selected["x"], expected["x"])
        np.testing.assert_array_equal(targets, expected_targets)
        assert np.shares_memory(selected["x"], copy.inputs["x"])


def test_training_from_disk_is_training_from_memory(tmp_path: Path) -> None:
    """Equal rows in equal order give bit-identical weights and logits, wherever they lie."""
    save_dataset(_dataset(), tmp_path / "d")
    trained = []
    for mapped_from in (0, 1 << 40):
        inputs, targets = load_dataset(tmp_path / "d", mapped_from=mapped_from).select("train")
        torch.manual_seed(0)  # the gate begins at random
        classifier, rows = SmallClassifier(3, 3), list(inputs.values())
        fit(classifier, FedLASLoss(3), rows, targets, TrainConfig(epochs=3, batch_size=16), device="cpu")
        trained.append(predict_logits(classifier, rows, device="cpu", batch_size=7))
    assert isinstance(inputs["x"], np.ndarray)
    np.testing.assert_array_equal(trained[0][0], trained[1][0])
    np.testing.assert_array_equal(trained[0][1], trained[1][1])


def test_a_loader_reads_one_batch_ahead_and_in_order(tmp_path: Path) -> None:
    """Batches of mapped rows arrive in the order of the choice, and a reader that stops early leaves no thread."""
    write_arrays(tmp_path / "a.npz", {"x": ARRAYS["x"]})
    loader = Loader([read_arrays(tmp_path / "a.npz", mapped_from=0)["x"]], torch.device("cpu"))
    assert any(loader._readers)
    chosen = [torch.tensor([3, 1]), slice(10, 14), torch.tensor([199])]
    for (batch,), expected in zip(loader.batches(chosen), chosen, strict=True):
        expected_rows = ARRAYS["x"][expected if isinstance(expected, slice) else expected.tolist()]
        np.testing.assert_array_equal(batch.numpy(), expected_rows)
    started = loader.batches(chosen)
    next(started)
    started.close()


def test_arrays_of_different_lengths_are_not_loaded() -> None:
    """Inputs must agree in their number of rows, and there must be one."""
    with pytest.raises(ValueError, match=r"same number of rows each, got \[3, 2\]"):
        Loader([np.zeros(3), np.zeros(2)], torch.device("cpu"))
    with pytest.raises(ValueError, match="at least one array and one row"):
        Loader([np.zeros((0, 2))], torch.device("cpu"))


def test_no_torch_is_loaded() -> None:
    """Importing these modules in a fresh interpreter does not load PyTorch."""
    modules = ("data", "calibrators.feature_map", "gate", "race.results", "race.calibrator_selection", "report")
    code = "".join(f"import fedlas.{module}\n" for module in modules) + "import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
