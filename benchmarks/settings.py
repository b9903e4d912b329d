"""The settings of the calibration benchmark: which data, and which base model, how trained; it calibrates nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from benchmarks.classical import CLASSICAL
from benchmarks.data.arena_tables import ARENA_TABLES
from benchmarks.data.common import Split
from benchmarks.data.images import fashion, mnist
from benchmarks.data.new_tables import NEW_TABLES
from benchmarks.data.second_arena import SECOND_ARENA
from benchmarks.data.tabular import CONFIRMATION, DEVELOPMENT, IN_KEEL, TABLES, tabular
from benchmarks.data.untouched import UNTOUCHED
from benchmarks.networks import (
    BaseTraining,
    Headed,
    exported,
    small_cnn,
    small_gru,
    small_mlp,
    tabular_mlp,
    train_base,
)

Loader = Callable[[int], Split]


class Base(Protocol):
    """A base model: trained on the train rows of a split, it comes as ONNX."""

    def onnx(self, split: Split, *, seed: int, name: str) -> bytes: ...


@dataclass(frozen=True)
class NetworkBase:
    """A network that is trained, as `how` says, until it is overconfident; `build(split)` makes it untrained."""

    build: Callable[[Split], Headed]
    how: BaseTraining

    def network(self, split: Split, *, seed: int, name: str) -> Headed:
        """The trained network, from the cache folder if it was trained before."""
        return train_base(partial(self.build, split), split.train, self.how, seed=seed, name=name)

    def onnx(self, split: Split, *, seed: int, name: str) -> bytes:
        return exported(self.network(split, seed=seed, name=name), split.train)


@dataclass(frozen=True)
class Setting:
    """One experiment, named before it was run.

    Attributes:
        section: `networks` (the 29), `forests`, `untouched`, `new-tables`, `arena`, `second-arena`, or `small`
            (smaller networks, timed by `benchmarks.served`).
        split: `split(seed)` loads and splits the data.
        seeds: those that are run unless others are asked for.
    """

    title: str
    section: str
    split: Loader
    base: Base
    seeds: tuple[int, ...] = (0, 1, 2)


def load(name: str, seed: int = 0) -> tuple[Headed, Split]:
    """The trained base network of a setting that has one, and its rows."""
    setting = SETTINGS[name]
    if not isinstance(setting.base, NetworkBase):
        raise ValueError(f"{name} has no network")
    split = setting.split(seed)
    return setting.base.network(split, seed=seed, name=name), split


def _images(network: Callable[[int], Headed], how: BaseTraining) -> NetworkBase:
    return NetworkBase(lambda split: network(split.num_classes), how)


def _table(split: Split, *, width: int) -> Headed:
    return tabular_mlp(split.train[0][0].shape[1], split.num_classes, width)


def _mlp(name: str, section: str, width: int = 128) -> Setting:
    base = NetworkBase(partial(_table, width=width), BaseTraining(epochs=60, learning_rate=0.1))
    return Setting(f"{TABLES[name].title}, MLP {width}-{width}", section, partial(tabular, name), base)


#: The twenty tables under forests, boosting, class-weighted logistic regression and naive Bayes: those with noise.
#: Left out: digits, letter, shuttle, penbased, texture, segment and chess, which trees separate almost perfectly.
CLASSICAL_TABLES = (
    *("spam", "income", "caravan", "diamonds", "cells", "churn", "credit", "hpc", "poverty", "satellite", "dna"),
    *("contraceptive", "ring", "page-blocks0", "yeast1"),
    *("wa_churn", "stackoverflow", "lending_club", "attrition", "chile"),
)


def _classical() -> dict[str, Setting]:
    return {
        f"{name}-{kind}": Setting(f"{TABLES[name].title}, {title}", "forests", partial(tabular, name), base, seeds=(0,))
        for kind, (title, base) in CLASSICAL.items()
        for name in CLASSICAL_TABLES
    }


_CNN = BaseTraining(epochs=40, learning_rate=0.05)
_MLP = BaseTraining(epochs=200, learning_rate=0.1)
_GRU = BaseTraining(epochs=100, learning_rate=0.1)
SETTINGS: dict[str, Setting] = {
    "fashion": Setting("Fashion-MNIST, three-layer CNN", "networks", fashion, _images(small_cnn, _CNN)),
    "mnist": Setting("MNIST-5k, 15 % wrong training labels, MLP 128", "networks", mnist, _images(small_mlp, _MLP)),
    **{name: _mlp(name, "networks") for name in (*DEVELOPMENT, *CONFIRMATION)},
    **_classical(),
    **{name: _mlp(name, "small", width=64) for name in IN_KEEL},
    "mnist-gru": Setting("MNIST-5k, 15 % wrong training labels, GRU 64", "small", mnist, _images(small_gru, _GRU)),
    **{name: _mlp(name, "untouched") for name in UNTOUCHED},
    **{name: _mlp(name, "new-tables") for name in NEW_TABLES},
    **{name: _mlp(name, "arena") for name in ARENA_TABLES},
    **{name: _mlp(name, "second-arena") for name in SECOND_ARENA},
}
