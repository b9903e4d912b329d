"""The gate's verdict: what is served after a job, and the tests that it rests on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.registry.documents.base import Document
from service.registry.documents.estimates import Figure, ScoreDifference

Verdict = Literal["trained", "post_hoc", "unchanged", "undetermined"]
Finalist = Literal["same_labels", "post_hoc", "trained"]


class GateClaim(Document):
    """A finalist beats everything that it is compared with."""

    finalist: Finalist
    shown: bool
    p_value: Figure
    level: float = Field(description="What Holm's procedure allowed this claim.")
    comparisons: list[ScoreDifference]
    rows_needed: int | None = Field(
        None, description="Test rows that would show these differences with 80 % power; 1,000,001: more than a million."
    )


class GateGuard(Document):
    """Something that a promoted finalist may not worsen beyond a limit."""

    name: str
    finalist: Finalist
    passed: bool
    value: Figure
    limit: Figure
    low: Figure = None
    high: Figure = None
    class_index: int | None = Field(None, description="The class that the value belongs to.")
    chance: Figure = Field(None, description="The one-sided p-value of the loss.")


class GateVerdict(Document):
    """The verdict with its claims, guards and sentences."""

    verdict: Verdict
    promoted: bool
    score: str
    claims: list[GateClaim]
    guards: list[GateGuard]
    sentences: list[str]
    looks_before: int = Field(0, description="How many jobs had judged with these test rows before.")
    level: float | None = Field(None, description="What this judgement could spend after the earlier ones.")
    finalist: Finalist | None = Field(None, description="What is served; null: the uploaded model as it came.")
