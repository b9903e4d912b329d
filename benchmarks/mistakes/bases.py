"""The six kinds of models, each with its right dataset: what mistakes are made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from benchmarks.classical import CLASSICAL
from benchmarks.data.common import Array, Rows, Split
from benchmarks.data.images import fashion
from benchmarks.data.tabular import TABLES
from benchmarks.mistakes.networks import TextNetwork, batch_norm_cnn, lite0_on_tiles, table_network
from benchmarks.mistakes.pair import Pair
from benchmarks.mistakes.photographs import tiles
from benchmarks.mistakes.words import PAD, words
from benchmarks.networks import BaseTraining, Headed, exported, train_base

_ADAMW = BaseTraining(epochs=12, learning_rate=2e-3, optimizer="adamw")


@dataclass(frozen=True)
class Base:
    """A model, the pair in which nothing is wrong, and what is needed to make a mistake of it.

    Attributes:
        kind: one of the six.
        wants: what its inputs are: `unit` (0 to 1), `pixels` (0 to 255) or `normalised` images, `raw` or
            `standardised` columns, `tokens`, `files` (the service makes the numbers).
        mean, std: what standardises pixels of 0 to 1, or raw columns.
        categories: columns of a table whose numbers are codes.
        train: `train(split, name)` is a model of the same kind for other columns of a table.
    """

    name: str
    kind: str
    pair: Pair
    wants: str
    mean: Any = 0.0
    std: Any = 1.0
    categories: tuple[int, ...] = ()
    train: Callable[[Split, str], bytes] | None = None


def reordered(split: Split, seed: int = 3) -> Split:
    """The same rows for a model whose classes are not in the order of their names."""
    order = np.random.default_rng(seed).permutation(split.num_classes)
    if (np.diff(order) > 0).all():
        order = order[::-1]
    place = np.argsort(order)

    def turned(rows: Rows) -> Rows:
        return rows[0], place[rows[1]]

    names = tuple(split.class_names[i] for i in order)
    parts = {part: turned(getattr(split, part)) for part in ("train", "calibration", "test", "hidden")}
    return replace(split, **parts, class_names=names)


def mapped(split: Split, change: Callable[[Array], Array]) -> Split:
    """The same rows with every input array changed."""
    parts = {
        part: ([change(array) for array in getattr(split, part)[0]], getattr(split, part)[1])
        for part in ("train", "calibration", "test", "hidden")
    }
    return replace(split, **parts)


def _cnn(name: str, wants: str) -> Base:
    split = fashion(0)
    split = mapped(split, lambda x: (255 * x).round()) if wants == "pixels" else split
    mean, std = 0.286, 0.353
    if wants == "normalised":
        split = mapped(split, lambda x: ((x - mean) / std).astype(np.float32))
    inside = (255 * mean, 255 * std) if wants == "pixels" else None
    network = train_base(partial(batch_norm_cnn, inside), split.train, _ADAMW, seed=0, name=f"mistakes-cnn-{wants}")
    return Base(name, "CNN", Pair.of(exported(network, split.train), split), wants, mean, std)


def _text(name: str, *, mask: bool) -> Base:
    split = words(0, mask=mask)
    names = ("ids", "mask") if mask else ("ids",)
    build = partial(TextNetwork.headed, split.num_classes, names, pad=PAD)
    network = train_base(build, split.train, _ADAMW, seed=0, name=f"mistakes-text-{mask}")
    return Base(name, "text", Pair.of(exported(network, split.train), split, names), "tokens")


def frame_split(frame: Any, target: str, seed: int = 0, shares: tuple[float, ...] = (0.5, 0.25, 0.25)) -> Split:
    """A frame of numbers as it is, without hidden rows; texts become codes in the order of their names."""
    inputs = frame.drop(columns=target)
    for column in inputs.columns:
        if inputs[column].dtype.kind not in "iufb":
            inputs[column] = np.unique(inputs[column].astype(str), return_inverse=True)[1]
    names, targets = np.unique(frame[target].astype(str), return_inverse=True)
    rows = np.random.default_rng(seed).permutation(len(frame))
    parts = np.split(rows, (np.cumsum(shares)[:2] * len(frame)).astype(int))
    x = inputs.to_numpy(np.float32)
    return Split(
        *(([x[part]], targets[part].astype(np.int64)) for part in (*parts, rows[:0])), tuple(map(str, names)), "table"
    )


@cache
def frame_of(name: str) -> tuple[Any, str]:
    if name == "cancer":
        from sklearn.datasets import load_breast_cancer

        loaded = load_breast_cancer(as_frame=True)
        return loaded.frame.assign(target=np.array(loaded.target_names)[loaded.target]), "target"
    frame, target = TABLES[name].read().dropna(), TABLES[name].target
    if name == "segment":  # digits as text would count as class indices
        frame[target] = "ground " + frame[target].astype(str)
    return frame, target


def _classical(kind: str, split: Split) -> bytes:
    return CLASSICAL[kind][1].onnx(split, seed=0, name=kind)


def scaled_forest(split: Split) -> bytes:
    """A pipeline of a scaler and a forest of fifty trees, in one graph."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from benchmarks.classical import ClassicalBase

    made = ClassicalBase(lambda seed: make_pipeline(StandardScaler(), RandomForestClassifier(50, random_state=seed)))
    return made.onnx(split, seed=0, name="scaled forest")


def scaled_logistic(split: Split) -> bytes:
    """A pipeline of a scaler and a logistic regression, in one graph."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from benchmarks.classical import ClassicalBase

    made = ClassicalBase(lambda seed: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)))
    return made.onnx(split, seed=0, name="scaled logistic")


def table_mlp(split: Split, *, inside: tuple[Any, Any] | None, name: str, how: BaseTraining = _ADAMW) -> bytes:
    """An MLP 64-64, with a scaler in its graph where there is one `inside`."""
    build: Callable[[], Headed] = partial(table_network, split.train[0][0].shape[1], split.num_classes, inside)
    return exported(train_base(build, split.train, how, seed=0, name=f"mistakes-{name}"), split.train)


def _table(name: str, kind: str, table: str, wants: str, model: str) -> Base:
    """A model of a table, which gets its columns as they are or standardised by the train rows."""
    frame, target = frame_of(table)
    split = reordered(frame_split(frame, target))
    x = split.train[0][0]
    mean, std = x.mean(axis=0), np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    if wants == "standardised":
        split = mapped(split, lambda array: ((array - mean) / std).astype(np.float32))
    columns = tuple(str(column) for column in frame.columns if column != target)
    texts = [i for i, column in enumerate(columns) if frame[column].dtype.kind not in "iufb"]
    train = partial(trained, model, scaled=wants == "raw")
    pair = Pair.of(train(split, f"{table}-{wants}"), split, columns=columns)
    return Base(name, kind, pair, wants, mean, std, tuple(texts), train)


def trained(model: str, split: Split, name: str, *, scaled: bool) -> bytes:
    """A model of a table; the MLP has a scaler in its graph if `scaled`."""
    match model:
        case "mlp":
            x = split.train[0][0]
            inside = (x.mean(axis=0), np.where(x.std(axis=0) > 0, x.std(axis=0), 1)) if scaled else None
            return table_mlp(split, inside=inside, name=name, how=replace(_ADAMW, epochs=40))
        case "scaled forest":
            return scaled_forest(split)
        case "scaled logistic":
            return scaled_logistic(split)
    return _classical(model, split)


def retrained(base: Base, pair: Pair, name: str) -> Pair:
    """The pair with a model of the base's kind that was trained on its train rows."""
    assert base.train is not None
    parts = [np.flatnonzero(pair.split == part) for part in ("train", "calibration", "test")]
    rows = [([array[part] for array in pair.inputs.values()], pair.targets[part]) for part in parts]
    split = Split(*rows, rows[-1], pair.names, base.name)
    return replace(pair, model=base.train(split, f"{name}-{base.name.replace(' ', '-')}"))


def _pretrained(name: str, wants: str) -> Base:
    """efficientnet-lite0 with a head for ten photographs; `files` leaves the numbers to the service."""
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    split = tiles(0)  # (N, 32, 32, 3) pixels
    normalised = mapped(split, lambda x: ((x / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))
    pair = Pair.of(lite0_on_tiles(normalised), normalised)
    if wants == "files":
        images = np.concatenate([split.train[0][0], split.calibration[0][0], split.test[0][0]])
        how = {"mean": mean.tolist(), "std": std.tolist()}
        how = {key: [round(value, 3) for value in values] for key, values in how.items()}
        pair = replace(pair, images=images, inputs={}, model_options={"preprocessing": how})
    return Base(name, "pretrained", pair, wants, mean.reshape(3, 1, 1), std.reshape(3, 1, 1))


BASES: dict[str, Callable[[str], Base]] = {
    "CNN, unit": partial(_cnn, wants="unit"),
    "CNN, pixels": partial(_cnn, wants="pixels"),
    "CNN, normalised": partial(_cnn, wants="normalised"),
    "text, ids": partial(_text, mask=False),
    "text, ids and mask": partial(_text, mask=True),
    "MLP, standardised": partial(_table, kind="MLP", table="segment", wants="standardised", model="mlp"),
    "MLP, scaler in the graph": partial(_table, kind="MLP", table="segment", wants="raw", model="mlp"),
    "MLP, codes": partial(_table, kind="MLP", table="mushroom", wants="raw", model="mlp"),
    "forest, raw": partial(_table, kind="forest", table="vehicle", wants="raw", model="forest"),
    "forest, standardised": partial(_table, kind="forest", table="vehicle", wants="standardised", model="forest"),
    "forest, scaler in the graph": partial(_table, kind="forest", table="vehicle", wants="raw", model="scaled forest"),
    "forest, codes": partial(_table, kind="forest", table="mushroom", wants="raw", model="forest"),
    "logistic, standardised": partial(_table, kind="logistic", table="cancer", wants="standardised", model="logistic"),
    "logistic, scaler in the graph": partial(
        _table, kind="logistic", table="cancer", wants="raw", model="scaled logistic"
    ),
    "logistic, codes": partial(_table, kind="logistic", table="mushroom", wants="raw", model="scaled logistic"),
    "pretrained, normalised": partial(_pretrained, wants="normalised"),
    "pretrained, image files": partial(_pretrained, wants="files"),
}
