"""Candidates fine-tuned and judged on calibration rows: one post-hoc and one trained finalist.

Choosing a calibrator for scores (`fedlas.race.results`) needs no PyTorch.
"""

from __future__ import annotations

from fedlas.extras import require

require("arrays", "numpy", "pydantic", "scipy")
