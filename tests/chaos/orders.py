"""Orders of a run, and the answers that its customers got about them; all of it follows from the seed."""

from __future__ import annotations

import base64
import random
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from tests.helpers import Json
from tests.helpers.uploads import digits, npz

#: The first so many orders have a dataset of their own, so that its test rows have no earlier look: their reports
#: must be those of an undisturbed run.
COMPARED = 3
_CANCELLED = (9, 4)  # of every nine, the one with this remainder
_UNWILLING = (5, 3)
_CANDIDATES = (3, 0, 2)
_MAX_WAIT_S = 40.0
_VISITORS = 10_000
_BATCHES = 20_000
#: Rows of the dataset that all batches answer, and how many of the first the predict door is asked about.
BATCH_ROWS, PREDICTED = 3_000, 50


@dataclass(frozen=True)
class Acknowledged:
    """A request that was answered with 2xx: how to send it again, and which record came of it."""

    kind: str  # models, datasets, jobs, predictions
    key: str
    request: Json
    record_id: str


@dataclass(kw_only=True)
class Errand:
    """The errand of one customer (`dataset`: of its own): what was promised, and answers that it should not get."""

    number: int
    dataset: bytes | None = None
    acknowledged: list[Acknowledged] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    record: Json = field(default_factory=dict)
    has_ended: bool = False

    @property
    def record_id(self) -> str | None:
        """The id of the job or batch, once it is acknowledged."""
        ids = [one.record_id for one in self.acknowledged if one.kind in ("jobs", "batches")]
        return ids[0] if ids else None


@dataclass(kw_only=True)
class Order(Errand):
    """One calibration as a customer sees it.

    Attributes:
        cancel_after: seconds from the answer until it is cancelled again; None for most.
        candidates: of its race; 0 where nothing is trained.
        cancelling: whether it was cancelled, by its customer or by a fault.
        report: what was handed out in the end.
    """

    secret: str
    cancel_after: float | None
    unwilling: bool
    candidates: int
    cancelling: bool = False
    report: bytes | None = None

    def body(self, model_id: str, dataset_id: str, hook: str | None) -> Json:
        """The job, a few seconds of work."""
        race: Json = {"hyperparameters": {"epochs": 6}, "budget": {"minutes": 30, "candidates": self.candidates}}
        body: Json = {
            "model_id": model_id,
            "dataset_id": dataset_id,
            "seed": self.number,
            **(race if self.candidates else {"method": "post_hoc"}),
            "metadata": {"order": str(self.number)},
        }
        return body if hook is None else {**body, "webhook": {"url": hook, "secret": self.secret}}


@dataclass(kw_only=True)
class Batch(Errand):
    """Predictions over the shared rows: its manifest, digest and rows of each part, and all rows as NDJSON."""

    manifest: Json = field(default_factory=dict)
    parts: list[tuple[str, int]] = field(default_factory=list)
    answers: bytes | None = None


def order(number: int, *, seed: int) -> Order:
    """The order of this number, always the same for a seed."""
    rng = random.Random(f"{seed}-{number}")
    cancelled = number >= COMPARED and number % _CANCELLED[0] == _CANCELLED[1]
    return Order(
        number=number,
        secret="whsec_" + base64.b64encode(rng.randbytes(24)).decode(),
        dataset=shuffled_digits(number) if number < COMPARED else None,
        cancel_after=rng.uniform(0, _MAX_WAIT_S) if cancelled else None,
        unwilling=number % _UNWILLING[0] == _UNWILLING[1],
        candidates=_CANDIDATES[number % len(_CANDIDATES)],
    )


def visit(number: int) -> Errand:
    """Somebody who only uploads a dataset, with a number that no order has."""
    return Errand(number=_VISITORS + number, dataset=shuffled_digits(_VISITORS + number))


def batch(number: int) -> Batch:
    """Somebody who has the shared rows predicted, with a number that no order has."""
    return Batch(number=_BATCHES + number)


def shuffled_digits(number: int) -> bytes:
    """The digits with their rows in an order of their own: another file, and another training."""
    rows, labels, splits = digits()
    chosen = np.random.default_rng(number).permutation(len(labels))
    return npz(x=rows[chosen], label=labels[chosen], split=splits[chosen])


@cache
def some_digits(count: int) -> list[list[float]]:
    """The first rows of all batches: digits, again and again, each time a little otherwise."""
    rows, _, _ = digits()
    rng = np.random.default_rng(0)
    chosen = rows[rng.integers(0, len(rows), BATCH_ROWS)]
    noisy = np.clip(chosen + rng.normal(0, 0.05, chosen.shape), 0, 1).astype(np.float32)
    return noisy[:count].tolist()  # type: ignore[no-any-return]


def unlabelled_digits() -> bytes:
    """All rows of batches."""
    return npz(x=np.array(some_digits(BATCH_ROWS), dtype=np.float32))
