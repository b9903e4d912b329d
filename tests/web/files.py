"""Files that people upload in these tests: a table, a zip of small pictures, and one picture."""

from __future__ import annotations

import numpy as np

from tests.corpus.images import Entry, image, zip_of
from tests.helpers.command_line import drawn_rows
from tests.helpers.uploads import csv, digits

#: Numbers of the pictures; few, so that a job on them takes seconds.
_COUNTS = {"train": 100, "calibration": 200, "guarantee": 100, "test": 300}


def drawn_csv(*, test: int) -> bytes:
    """Rows whose true probabilities are known, as three columns with `label` and `split`."""
    rows, labels, splits = drawn_rows(test=test)
    return csv({**dict(zip("abc", rows.T, strict=True)), "label": labels, "split": splits})


def pictures_zip() -> bytes:
    """Digits of 8 x 8 pixels as `split/class/number.png`."""
    rows, labels, words = digits()
    chosen = [(split, at) for split, count in _COUNTS.items() for at in np.flatnonzero(words == split)[:count]]
    return zip_of([Entry(f"{split}/{labels[at]}/{at}.png".encode(), _png(rows[at])) for split, at in chosen])


def picture_of(digit: int) -> bytes:
    """The first test picture of a digit."""
    rows, labels, words = digits()
    return _png(rows[np.flatnonzero((words == "test") & (labels == digit))[0]])


def _png(row: np.ndarray) -> bytes:
    """Pixels from 0 to 255 of what the network takes from 0 to 1."""
    return image((row.reshape(8, 8) * 255).round().astype(np.uint8))
