"""A score with labels becomes probabilities and a threshold with a promise; PyTorch is not needed."""

from __future__ import annotations

from fedlas.extras import require

require("scores", "numpy", "pydantic", "scipy", "PIL", "pyarrow", "jinja2")
