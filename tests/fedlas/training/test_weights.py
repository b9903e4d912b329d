"""Sampling weights: rows that judge become a sample of the population, the others are weighed or drawn by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedlas.data import load_dataset, read_dataset, save_dataset
from fedlas.data.splits import DEFAULT_SHARES, SET_ASIDE, draw_splits, thinned
from fedlas.errors import BadDataset
from fedlas.losses import CrossEntropyLoss
from fedlas.training.fit import fit, predict_logits
from fedlas.training.loop import TrainConfig, TrainingOptions, shuffled_batches
from tests.helpers.refusals import refusal
from tests.helpers.small_classifier import SmallClassifier


def test_a_thinned_split_is_a_sample_of_the_population() -> None:
    """A value's share among the rows that stay is its share in the population, though the file holds another share."""
    rng = np.random.default_rng(0)
    # One in ten of the population is ill, but half of the file: every ill row stands for 1, every healthy one for 9.
    ill = rng.random(40_000) < 0.5
    kept = thinned(np.full(40_000, 3, np.int8), np.where(ill, 1.0, 9.0), seed=1)
    stayed = ill[kept == 3]
    assert len(stayed) == pytest.approx(40_000 * (0.5 + 0.5 / 9), rel=0.02)
    assert stayed.mean() == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / len(stayed)))
    assert set(np.unique(kept)) == {SET_ASIDE, 3}


def test_equal_weights_and_train_rows_change_nothing() -> None:
    """Weights that are all alike set nothing aside; train and calibration rows stay unless they weigh nothing."""
    splits = (np.arange(400) % 4).astype(np.int8)
    np.testing.assert_array_equal(thinned(splits, np.full(400, 2.5)), splits)
    uneven = thinned(splits, np.random.default_rng(0).random(400) + 0.01)
    fitting = splits <= 1
    np.testing.assert_array_equal(uneven[fitting], splits[fitting])
    assert (uneven[~fitting] == SET_ASIDE).any()
    assert (thinned(splits, (np.arange(400) >= 100).astype(float))[:100] == SET_ASIDE).all()
    np.testing.assert_array_equal(uneven, thinned(splits, np.random.default_rng(0).random(400) + 0.01))


def test_rows_are_drawn_by_their_weights() -> None:
    """Over many epochs every row is drawn as often as its weight says, and a row of weight 0 never."""
    weights = np.array([0.0, 1.0, 2.0, 0.0, 5.0])
    order = torch.Generator().manual_seed(0)
    drawn = torch.cat([rows for _ in range(4000) for rows in shuffled_batches(5, 5, order, weights)])
    shares = np.bincount(drawn.numpy(), minlength=5) / len(drawn)
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.015)
    assert shares[0] == shares[3] == 0


def test_training_follows_the_population() -> None:
    """A network trained with weights says the base rate of the population, not that of the file."""
    rng = np.random.default_rng(0)
    targets = (np.arange(2000) % 2).astype(np.int64)  # half of the file, one in ten of the population
    inputs = rng.standard_normal((2000, 2)).astype(np.float32)  # that say nothing
    said = {}
    for name, weights in (("weighted", np.where(targets == 1, 1.0, 9.0)), ("not", None)):
        classifier = SmallClassifier(2, 2, seed=3)
        config = TrainConfig(epochs=6, batch_size=50, learning_rate=0.05)
        fit(classifier, CrossEntropyLoss(), [inputs], targets, config, TrainingOptions(weights=weights), device="cpu")
        logits, _ = predict_logits(classifier, [inputs], device="cpu")
        said[name] = float(torch.softmax(torch.from_numpy(logits), dim=1)[:, 1].mean())
    assert said["weighted"] == pytest.approx(0.1, abs=0.03)
    assert said["not"] == pytest.approx(0.5, abs=0.03)


def test_a_weighted_dataset_says_what_stayed(tmp_path: Path) -> None:
    """Reading thins the splits that judge, keeps the weights for training, and names the numbers of rows."""
    rng = np.random.default_rng(0)
    weights = np.where(rng.random(2000) < 0.5, 1.0, 4.0)
    labels, words = np.arange(2000) % 2, np.array(["train", "test"], "U11")[np.arange(2000) // 1000]
    words[:400] = "calibration"
    np.savez(tmp_path / "d.npz", x=rng.random((2000, 3)), label=labels, split=words, weight=weights)
    dataset = read_dataset(tmp_path / "d.npz")
    stayed = len(dataset.rows("test"))
    assert stayed == pytest.approx(1000 * (0.5 + 0.5 / 4), rel=0.06)
    assert (len(dataset.rows("train")), len(dataset.rows("calibration"))) == (600, 400)
    assert any(f"{stayed} of 1000 test rows" in warning for warning in dataset.warnings)
    np.testing.assert_array_equal(dataset.weights, weights)
    assert dataset.profile()["splits"]["test"] == stayed


def test_weights_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    """A single huge weight makes a sample of the population impossible: the error says so, with the numbers."""
    weights = np.ones(1000)
    weights[999] = 1e9
    words = np.array(["calibration", "test"])[np.arange(1000) // 500]
    np.savez(tmp_path / "d.npz", x=np.arange(1000.0), label=np.arange(1000) % 2, split=words, weight=weights)
    with refusal(BadDataset, "weights_too_uneven", r"500 of 500 calibration rows, 1 of 500 test rows"):
        read_dataset(tmp_path / "d.npz")


def test_one_heavy_calibration_row_is_refused(tmp_path: Path) -> None:
    """Where a few rows outweigh all others, calibrators would be fitted on those: an error has the number."""
    weights = np.ones(1000)
    weights[:3] = 1e6
    words = np.array(["calibration", "test"])[np.arange(1000) // 500]
    np.savez(tmp_path / "d.npz", x=np.arange(1000.0), label=np.arange(1000) % 2, split=words, weight=weights)
    with refusal(BadDataset, "weights_too_uneven", "3 of 500 calibration rows"):
        read_dataset(tmp_path / "d.npz")


def test_a_prepared_copy_weighs_its_calibration_rows(tmp_path: Path) -> None:
    """The weights of the calibration rows are those of the file."""
    weights = np.arange(1.0, 201.0)
    words = np.array(["train", "calibration", "test", "test"])[np.arange(200) % 4]
    np.savez(tmp_path / "d.npz", x=np.arange(200.0), label=np.arange(200) // 4 % 2, split=words, weight=weights)
    save_dataset(read_dataset(tmp_path / "d.npz"), tmp_path / "copy.npz")
    np.testing.assert_array_equal(load_dataset(tmp_path / "copy.npz").weights_of("calibration"), weights[1::4])


def test_many_small_groups_are_never_divided() -> None:
    """Beyond the groups that are weighed one by one, groups stay whole and every class has its share of each split."""
    rng = np.random.default_rng(0)
    groups = np.sort(rng.integers(0, 60_000, 150_000))
    targets = rng.integers(0, 3, 150_000)
    splits = draw_splits(targets, groups=groups, seed=4)
    assert len(np.unique(np.stack([groups, splits]), axis=1).T) == len(np.unique(groups))
    for label in range(3):
        shares = np.bincount(splits[targets == label], minlength=4) / (targets == label).sum()
        np.testing.assert_allclose(shares, DEFAULT_SHARES, atol=0.01)
