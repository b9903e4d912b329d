"""The settings of the calibration benchmark: which data, and which base model, how trained; it calibrates nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from benchmarks.classical import CLASSICAL
from benchmarks.data.arena_tables import ARENA_TABLES
from benchmarks.data.common import Split
from benchmarks.data.images import fashion, mnist
from benchmarks.data.new_tables import NEW_TABLES
from benchmarks.data.second_arena import SECOND_ARENA
from benchmarks.data.tabular import CONFIRMATION, DEVELOPMENT, IN_KEEL, TABLES, tabular
from benchmarks.data.text import debian_sections
from benchmarks.data.untouched import UNTOUCHED
from benchmarks.networks import (
    BaseTraining,
    Headed,
    exported,
    minilm,
    resnet18,
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
        return train_base(partial(self.build, split), split.base or split.train, self.how, seed=seed, name=name)

    def onnx(self, split: Split, *, seed: int, name: str) -> bytes:
        return exported(self.network(split, seed=seed, name=name), split.train)


@dataclass(frozen=True)
class Setting:
    """One experiment, named before it was run.

    Attributes:
        section: `networks` (the 29), `unseen` (the same with bases trained on other rows than the job gets), `forests`,
            `untouched`, `new-tables`, `arena`, `second-arena`, `small` (smaller networks, timed by
            `benchmarks.served`), or `large`, which takes hours.
        split: `split(seed)` loads and splits the data.
        seeds: those that are run unless others are asked for.
    """

    title: str
    section: str
    split: Loader
    base: Base
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def seen_by_model(self) -> str:
        """The share of a job's rows that its model was trained on, in the words of a job's dataset."""
        return "no" if self.section == "unseen" else "train_split"


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


def _unseen() -> dict[str, Setting]:
    """Every network with half of its train rows for the base alone."""
    return {
        f"{name}-unseen": replace(one, section="unseen", split=partial(_halved, one.split))
        for name, one in SETTINGS.items()
        if one.section == "networks"
    }


def _halved(load: Loader, seed: int) -> Split:
    return load(seed).halved()


_CNN = BaseTraining(epochs=40, learning_rate=0.05)
_MLP = BaseTraining(epochs=200, learning_rate=0.1)
_GRU = BaseTraining(epochs=100, learning_rate=0.1)
_RESNET = BaseTraining(epochs=12, learning_rate=0.05)
_MINILM = BaseTraining(epochs=7, learning_rate=3e-4, optimizer="adamw")
SETTINGS: dict[str, Setting] = {
    "fashion": Setting("Fashion-MNIST, three-layer CNN", "networks", fashion, _images(small_cnn, _CNN)),
    "mnist": Setting("MNIST-5k, 15 % wrong training labels, MLP 128", "networks", mnist, _images(small_mlp, _MLP)),
    **{name: _mlp(name, "networks") for name in (*DEVELOPMENT, *CONFIRMATION)},
    **_classical(),
    "resnet18": Setting(
        "Fashion-MNIST, resnet18", "large", partial(fashion, channels=3), _images(resnet18, _RESNET), seeds=(0, 1)
    ),
    "minilm": Setting(
        "Debian package synopses, 20 sections, MiniLM", "large", debian_sections, _images(minilm, _MINILM), seeds=(0, 1)
    ),
    **{name: _mlp(name, "small", width=64) for name in IN_KEEL},
    "mnist-gru": Setting("MNIST-5k, 15 % wrong training labels, GRU 64", "small", mnist, _images(small_gru, _GRU)),
    **{name: _mlp(name, "untouched") for name in UNTOUCHED},
    **{name: _mlp(name, "new-tables") for name in NEW_TABLES},
    **{name: _mlp(name, "arena") for name in ARENA_TABLES},
    **{name: _mlp(name, "second-arena") for name in SECOND_ARENA},
}
SETTINGS |= _unseen()
