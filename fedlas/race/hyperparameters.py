"""Hyperparameters: what a network was made with."""

from __future__ import annotations

from typing import Literal, TypedDict


class Hyperparameters(TypedDict, total=False):
    """The numbers of a loss and its training, and what of the network is trained."""

    alpha: float
    beta: float
    momentum: float
    margin: float
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float | None
    weight_decay: float
    epochs: int | None
    batch_size: int
    scope: str


class Settings(Hyperparameters, total=False):
    """What a network was made with; a network that was made of others names them."""

    members: list[str]
    weights: list[float]
    cost_factor: float
