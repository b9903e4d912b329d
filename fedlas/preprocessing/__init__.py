"""Image files become the arrays a model takes, alike in training and in serving; numpy, pydantic and Pillow only.

`Preprocessing.parse({"resize": 256, "crop": 224, "mean": [...], "std": [...]})` describes what is done to an image,
calling it on the bytes of a file does it, and `preprocess_all` does it to many at once.
"""

from __future__ import annotations

from fedlas.extras import require

require("images", "PIL", "numpy", "pydantic")

from fedlas.preprocessing.decoding import MAX_PIXELS, BadImage, ImageFacts, checked_image, image_facts
from fedlas.preprocessing.steps import Preprocessing, in_parallel, preprocess_all, usable_cores

__all__ = [
    "MAX_PIXELS",
    "BadImage",
    "ImageFacts",
    "Preprocessing",
    "checked_image",
    "image_facts",
    "in_parallel",
    "preprocess_all",
    "usable_cores",
]
