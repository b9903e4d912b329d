"""The gate: the one test on test rows that decides the verdict."""

from fedlas.extras import require

require("arrays", "numpy", "pydantic", "scipy")
