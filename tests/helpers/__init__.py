"""Helpers of all tests; two names of nearly all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
