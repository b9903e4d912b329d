"""Tiles of ten photographs from Debian's `mate-backgrounds`, to be told apart; it knows no network."""

from __future__ import annotations

import numpy as np

from benchmarks.data.common import Array, Rows, Split
from benchmarks.data.debian import unpacked

PHOTOGRAPHS = (
    *("Dune", "FreshFlower", "Garden", "GreenMeadow", "LadyBird"),
    *("RainDrops", "Storm", "TwoWings", "Wood", "YellowFlower"),
)
SIDE, PER_PHOTOGRAPH = 32, 140
_SIZES = (700, 350, 350)  # train, calibration, test


def tiles(seed: int) -> Split:
    """Tiles (N, 32, 32, 3) uint8 that do not overlap; the class is the photograph that a tile comes from."""
    rng = np.random.default_rng(seed)
    found = [_tiles(name, rng) for name in PHOTOGRAPHS]
    images = np.concatenate(found)
    targets = np.repeat(np.arange(len(found)), [len(one) for one in found])
    rows = rng.permutation(len(images))
    parts = np.split(rows, np.cumsum(_SIZES))

    def select(at: Array) -> Rows:
        return [images[at]], targets[at].astype(np.int64)

    # The order in which the photographs were taken up, which is not that of their names.
    order = rng.permutation(len(PHOTOGRAPHS))
    targets = np.argsort(order)[targets]
    names = tuple(PHOTOGRAPHS[i] for i in order)
    return Split(*(select(part) for part in parts), names, "Debian mate-backgrounds")


def _tiles(name: str, rng: np.random.Generator) -> Array:
    from PIL import Image

    file = unpacked("mate-backgrounds") / "usr/share/backgrounds/mate/nature" / f"{name}.jpg"
    photograph = np.asarray(Image.open(file).convert("RGB").resize((1600, 1000)))
    down, across = (size // SIDE for size in photograph.shape[:2])
    cut = photograph[: down * SIDE, : across * SIDE].reshape(down, SIDE, across, SIDE, 3).swapaxes(1, 2)
    return cut.reshape(-1, SIDE, SIDE, 3)[rng.permutation(down * across)[:PER_PHOTOGRAPH]]
