"""A model of three classes for tests of the open inference protocol: its profile and what its file computes."""

from __future__ import annotations

from typing import Any

import numpy as np

from service.predict.engine.profile import ServingProfile

LOGITS = np.array([[2.0, 0.0, -1.0], [0.0, 0.5, 0.4], [-3.0, 1.0, 1.0]], dtype=np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """In float64."""
    exponents = np.exp(logits.astype(np.float64))
    result: np.ndarray = exponents / exponents.sum(1, keepdims=True)
    return result


def computed(logits: np.ndarray = LOGITS, temperature: float = 2.0) -> dict[str, np.ndarray]:
    """The outputs of a calibrated file."""
    probs = softmax(logits / temperature).astype(np.float32)
    features = np.arange(len(logits) * 4, dtype=np.float32).reshape(-1, 4) / 7
    typicality = np.linspace(0.25, 1, len(logits), dtype=np.float32)
    return {
        "logits": logits.copy(),
        "probabilities": probs,
        "confidence": probs.max(1),
        "features": features,
        "typicality": typicality,
    }


def profile_of(**changes: Any) -> ServingProfile:
    """A model of three classes with one input (N, 2, 3)."""
    document = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 2, 3]}],
        "task": "multiclass",
        "class_names": ["ant", "bee: honey", "Käfer"],
        "positive_class": None,
        "features": {"layer": "f", "dim": 4},
        "typicality": {"score": "norm"},
        "guarantees": None,
        "preprocessing": None,
        **changes,
    }
    return ServingProfile.of(document)
