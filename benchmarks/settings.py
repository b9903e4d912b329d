"""The settings of the calibration benchmark: which data, which network, how its base is trained; it races nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.data.common import Split
from benchmarks.data.images import fashion, mnist
from benchmarks.data.tabular import TABLES, tabular
from benchmarks.data.text import debian_sections
from benchmarks.networks import (
    BaseTraining,
    Headed,
    minilm,
    resnet18,
    small_cnn,
    small_mlp,
    tabular_mlp,
    train_base,
)

Loader = Callable[[int, bool], Split]


@dataclass(frozen=True)
class Setting:
    """One experiment, named before it was run.

    Attributes:
        split: `split(seed, quick)` loads and splits the data.
        build: `build(split)` makes the untrained network.
        base: how the base model is trained until it is overconfident.
        minutes: the default budget of a race.
        fresh: the race trains on rows that the base model has not seen.
    """

    title: str
    split: Loader
    build: Callable[[Split], Headed]
    base: BaseTraining
    minutes: float
    fresh: bool = False

    @property
    def provenance(self) -> str:
        return "no" if self.fresh else "train_split"


def load(name: str, seed: int = 0, *, quick: bool = False) -> tuple[Headed, Split]:
    """The trained base network (from the cache folder, if it was trained before) and its rows."""
    setting = SETTINGS[name]
    split = setting.split(seed, quick)
    how = BaseTraining(2, setting.base.learning_rate, setting.base.optimizer) if quick else setting.base
    label = name.removesuffix("-fresh")
    network = train_base(partial(setting.build, split), split.base, how, seed=seed, name=label, keep=not quick)
    return network, split


def _images(network: Callable[[int], Headed]) -> Callable[[Split], Headed]:
    return lambda split: network(split.num_classes)


def _table(split: Split) -> Headed:
    return tabular_mlp(split.base[0][0].shape[1], split.num_classes)


def _tables() -> dict[str, Setting]:
    base = BaseTraining(epochs=60, learning_rate=0.1)
    return {
        name: Setting(f"{table.title}, MLP 128-128", partial(tabular, name), _table, base, 3)
        for name, table in TABLES.items()
    }


_CNN = BaseTraining(epochs=40, learning_rate=0.05)
_MLP = BaseTraining(epochs=200, learning_rate=0.1)
_RESNET = BaseTraining(epochs=12, learning_rate=0.05)
_MINILM = BaseTraining(epochs=7, learning_rate=3e-4, optimizer="adamw")

SETTINGS: dict[str, Setting] = {
    "fashion": Setting("Fashion-MNIST, three-layer CNN", fashion, _images(small_cnn), _CNN, 10),
    "mnist": Setting("MNIST-5k, 15 % wrong training labels, MLP 128", mnist, _images(small_mlp), _MLP, 5),
    "resnet18": Setting("Fashion-MNIST, resnet18", partial(fashion, channels=3), _images(resnet18), _RESNET, 30),
    "minilm": Setting("Debian package synopses, 20 sections, MiniLM", debian_sections, _images(minilm), _MINILM, 30),
    "fashion-fresh": Setting(
        "Fashion-MNIST, the same CNN, fresh rows", partial(fashion, fresh=True), _images(small_cnn), _CNN, 10, True
    ),
    "minilm-fresh": Setting(
        "Debian package synopses, MiniLM, fresh rows",
        partial(debian_sections, fresh=True),
        _images(minilm),
        _MINILM,
        30,
        True,
    ),
    **_tables(),
}
