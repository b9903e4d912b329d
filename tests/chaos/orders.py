"""What is ordered in a run, and what its customers were told about it; all of it follows from the seed."""

from __future__ import annotations

import base64
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.helpers.uploads import digits, npz

Json = dict[str, Any]

#: The first so many orders have a dataset of their own, so that its test rows have no earlier look: their reports
#: must be those of an undisturbed run.
COMPARED = 4
_CANCELLED = (9, 4)  # of every nine, the one with this remainder
_UNWILLING = (5, 3)
_LONGEST_WAIT_S = 40.0
_VISITORS = 10_000


@dataclass(frozen=True)
class Acknowledged:
    """A request that was answered with 2xx: how to send it again, and which record came of it."""

    kind: str  # models, datasets, jobs
    key: str
    request: Json
    record_id: str


@dataclass
class Order:
    """One calibration as a customer sees it.

    Attributes:
        dataset: an upload of its own; None for the dataset that all share.
        cancel_after: seconds from the answer until it is cancelled again; None for most.
        acknowledged: what was promised.
        complaints: answers that no customer should get.
        report: what was handed out in the end.
    """

    number: int
    secret: str
    dataset: bytes | None
    cancel_after: float | None
    unwilling: bool
    acknowledged: list[Acknowledged] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    job: Json = field(default_factory=dict)
    cancelling: bool = False
    has_ended: bool = False
    report: bytes | None = None

    def body(self, model_id: str, dataset_id: str, hook: str | None) -> Json:
        """The job: two candidates with six epochs each, a few seconds of work."""
        body: Json = {
            "model_id": model_id,
            "dataset_id": dataset_id,
            "seed": self.number,
            "hyperparameters": {"epochs": 6},
            "budget": {"minutes": 30, "candidates": 2},
            "metadata": {"order": str(self.number)},
        }
        return body if hook is None else {**body, "webhook": {"url": hook, "secret": self.secret}}


def order(number: int, *, seed: int) -> Order:
    """The order of this number, always the same for a seed."""
    rng = random.Random(f"{seed}-{number}")
    cancelled = number >= COMPARED and number % _CANCELLED[0] == _CANCELLED[1]
    return Order(
        number=number,
        secret="whsec_" + base64.b64encode(rng.randbytes(24)).decode(),
        dataset=shuffled_digits(number) if number < COMPARED else None,
        cancel_after=rng.uniform(0, _LONGEST_WAIT_S) if cancelled else None,
        unwilling=number % _UNWILLING[0] == _UNWILLING[1],
    )


def visit(number: int) -> Order:
    """Somebody who only uploads a dataset, with a number that no order has."""
    dataset = shuffled_digits(_VISITORS + number)
    return Order(_VISITORS + number, secret="", dataset=dataset, cancel_after=None, unwilling=False)


def shuffled_digits(number: int) -> bytes:
    """The digits with their rows in an order of their own: another file, and another training."""
    rows, labels, splits = digits()
    chosen = np.random.default_rng(number).permutation(len(labels))
    return npz(x=rows[chosen], label=labels[chosen], split=splits[chosen])
