"""Guarantees: thresholds with a bounded error rate, and prediction sets with a bounded miss rate.

Both are fitted on the `guarantee` rows, which nothing else has used:

- `max_error`: answer only where the confidence reaches a threshold, so that among the answered rows of new data at
  most a given share is wrong. Learn then Test (arXiv 2110.01052): at `NUM_THRESHOLDS` thresholds, fixed by rank before
  any error is looked at, an exact binomial bound at δ / `NUM_THRESHOLDS` holds for all of them together. Hence every
  level holds at once, not only those of a list. Given the r-th highest confidence, the rows
  above it are independent draws of "a row with a higher confidence", so choosing thresholds by rank costs nothing.
- `coverage`: the set of all classes with 1 - p <= q holds the true class with that probability, q being the
  ⌈(n+1)c⌉-th smallest score 1 - p of the true classes (LAC, Sadinle et al. 2019, arXiv 1609.00451).
"""

from __future__ import annotations

from fedlas.extras import require

require("arrays", "numpy", "pydantic", "scipy")

from fedlas.guarantees.guarantees import EVERY_CLASS, Guarantees, Unreachable, band_at

__all__ = ["EVERY_CLASS", "Guarantees", "Unreachable", "band_at"]
