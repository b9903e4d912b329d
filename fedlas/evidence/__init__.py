"""What else a signature needs: FedLAS's own signs, and how far wrong test labels could have moved the verdict."""

from __future__ import annotations

from fedlas.evidence.label_noise import sensitivity
from fedlas.evidence.signs import auroc, fedlas_signs

__all__ = ["auroc", "fedlas_signs", "sensitivity"]
