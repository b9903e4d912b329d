"""The events of a race, as a worker writes them."""

from __future__ import annotations

from collections.abc import Iterator

from fedlas.contract.base import JsonObject

Told = tuple[str, JsonObject]


def trained(
    name: str, number: int, *, losses: list[float], fold: int | None = 1, nll: float | None = None, candidates: int = 2
) -> Iterator[Told]:
    """One training of a candidate with these losses, scored by `nll` where it is over."""
    one: JsonObject = {"candidate": name, "number": number, "fold": fold, "folds": None if fold is None else 3}
    about: JsonObject = {"method": "fedlas", "scope": "all", "candidates": candidates, "epochs": 10}
    yield "training", {**one, **about}
    for epoch, loss in enumerate(losses, 1):
        yield "epoch", {**one, "epoch": epoch, "epochs": 10, "loss": loss, "learning_rate": 0.1, "seconds": 0.5 * epoch}
    if nll is not None:
        yield "score", {**one, "nll": nll}


def ended(name: str, status: str = "finished", *, reason: str = "", nll: float | None = None) -> Told:
    """The end of a candidate."""
    calibration: JsonObject | None = None if nll is None else {"nll": nll}
    about: JsonObject = {"name": name, "method": "fedlas", "scope": "all", "status": status, "reason": reason}
    return "candidate", {**about, "calibration": calibration, "seconds": 3.0}
