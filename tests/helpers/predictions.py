"""Predictions of a model whose profile is a document, without any service around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedlas.contract.options import AnswerOptions
from service.predict.engine.profile import ServingProfile
from service.predict.formats.answers import json_rows
from service.predict.formats.predictions import DecisionPolicy, Predictions


def policy(profile: Mapping[str, Any], options: AnswerOptions) -> DecisionPolicy:
    """The policy of a request with these options."""
    return DecisionPolicy.of(ServingProfile.of(profile), options)


def answer(outputs: dict[str, np.ndarray], profile: Mapping[str, Any], options: AnswerOptions) -> list[dict[str, Any]]:
    """One object for each row, as `/v1` answers them."""
    return json_rows(Predictions(outputs, policy(profile, options)))
