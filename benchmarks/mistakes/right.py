"""Pairs in which nothing is wrong, among them those that look as if: weak, noisy, rare, grouped, shifted, raw, few."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.bases import make_base
from benchmarks.data.common import Array, Split, cache_folder
from benchmarks.data.tabular import TABLES
from benchmarks.mistakes.answers import accuracy
from benchmarks.mistakes.bases import (
    BASES,
    Base,
    frame_of,
    frame_split,
    reordered,
    retrained,
    scaled_forest,
    scaled_logistic,
    table_mlp,
    trained,
)
from benchmarks.mistakes.kept import kept
from benchmarks.mistakes.pair import Case, Pair
from benchmarks.networks import BaseTraining

#: Base models of the calibration benchmark, with the dataset of their job: overconfident networks on standardised
#: columns, and scikit-learn's.
OF_CALIBRATION = (
    *("income", "income-bayes", "poverty", "poverty-logistic", "chile", "chile-boosting"),
    *("contraceptive", "contraceptive-forest", "diamonds", "diamonds-logistic", "hpc", "hpc-boosting"),
    *("caravan", "caravan-forest", "caravan-logistic", "caravan-bayes", "lending_club", "lending_club-forest"),
    *("churn", "churn-boosting", "wa_churn", "attrition", "attrition-logistic", "credit-boosting", "yeast1-bayes"),
    *("stackoverflow-logistic", "page-blocks0-forest", "abalone-17_vs_7-8-9-10", "car-good", "german", "titanic"),
    *("letter", "chess", "dna", "shuttle", "mushroom", "ring-bayes", "cells-bayes", "spam-bayes", "spam"),
    *("satellite-forest", "texture", "vowel", "vehicle", "digits", "mnist", "fashion"),
)
_LONG = BaseTraining(epochs=200, learning_rate=2e-3, optimizer="adamw")


def right_pairs(bases: list[Base], wanted: str = "") -> Iterator[Case]:
    """Those of which `right × name` holds what is `wanted`; `bases` are those that mistakes are made with."""
    of = {base.name: base for base in bases}
    makers: dict[str, Callable[[], Pair]] = {
        **{name: partial(_of_calibration, name) for name in OF_CALIBRATION},
        **{title: partial(kept, title, partial(make, of)) for title, make in _OTHERS.items()},
    }
    for base in bases:
        if wanted in f"right × {base.name}":
            yield Case("", base.kind, base.name, base.pair)
    for title, make in makers.items():
        if wanted in f"right × {title}":
            yield Case("", "others", title, make())


def _of_calibration(name: str) -> Pair:
    folder = cache_folder() / "calibration" / f"{name}-0"
    if not (folder / "model.onnx").exists():
        make_base(name, 0, folder)
    arrays = dict(np.load(folder / "dataset.npz"))
    targets, names = arrays.pop("label"), tuple(map(str, arrays.pop("class_names")))
    split, group = arrays.pop("split"), arrays.pop("group", None)
    return Pair(
        model=(folder / "model.onnx").read_bytes(),
        inputs=arrays,
        targets=targets,
        label=targets,
        split=split,
        names=names,
        model_names=names,
        dataset_names=names,
        roles={} if group is None else {"group": group},
    )


def _unnamed(of: dict[str, Base], name: str) -> Pair:
    """Numbers as labels, and no names anywhere."""
    return replace(of[name].pair, label=of[name].pair.targets, model_names=None, columns=None)


def _names_in_dataset_only(table: str) -> Pair:
    """The model was trained in the order of the sorted names and is not told them."""
    split = frame_split(*frame_of(table))
    return replace(Pair.of(trained("mlp", split, f"sorted-{table}", scaled=True), split), model_names=None)


def _noisy(of: dict[str, Base], name: str, share: float) -> Pair:
    """A share of the labels, of train rows too, is replaced by any other."""
    pair = of[name].pair
    rng = np.random.default_rng(2)
    wrong = rng.random(len(pair.targets)) < share
    targets = np.where(
        wrong, (pair.targets + rng.integers(1, len(pair.names), len(wrong))) % len(pair.names), pair.targets
    )
    return retrained(of[name], replace(pair, targets=targets, label=np.array(pair.names)[targets]), f"noisy-{share}")


def _shifted(of: dict[str, Base], name: str, column: int) -> Pair:
    """The model was trained where a column is low, and is calibrated and judged where it is higher."""
    base = of[name]
    count = len(base.pair.targets)
    order = np.argsort(base.pair.inputs["x"][:, column] + 1e-9 * np.arange(count), kind="stable")
    later = np.array(["calibration", "test"])[np.random.default_rng(3).integers(0, 2, count)]
    split = np.where(np.arange(count) < 0.6 * count, "train", later)
    return retrained(base, replace(base.pair.rows(order), split=split), f"shifted-{column}")


def _grouped(of: dict[str, Base], name: str) -> Pair:
    """Rows come in sixty groups per split, each with noise of its own on every column, as of sixty instruments."""
    pair = of[name].pair
    rng = np.random.default_rng(4)
    place = np.unique(pair.split, return_inverse=True)[1]
    group = 60 * place + rng.integers(0, 60, len(place))
    x = pair.inputs["x"]
    offsets = 0.3 * x.std(axis=0) * rng.normal(size=(180, x.shape[1]))
    moved = replace(pair, inputs={"x": (x + offsets[group]).astype(np.float32)}, roles={"group": group})
    return retrained(of[name], moved, "grouped")


def _few(name: str, model: Callable[[Split], bytes]) -> Pair:
    """As many rows as a textbook has."""
    from sklearn import datasets

    loaded = getattr(datasets, f"load_{name}")(as_frame=True)
    frame = loaded.frame.assign(target=np.array([f"kind {i}" for i in loaded.target]))
    split = reordered(frame_split(frame, "target"))
    return Pair.of(model(split), split, columns=tuple(map(str, frame.columns[:-1])))


def _raw(table: str, model: Callable[[Split], bytes]) -> Pair:
    """Columns as they are, for instance with many zeros."""
    frame = TABLES[table].read().dropna()
    frame = frame.sample(n=min(len(frame), 4000), random_state=0).reset_index(drop=True)
    frame = frame.drop(columns=list(TABLES[table].drop))
    split = reordered(frame_split(frame, TABLES[table].target))
    return Pair.of(model(split), split)


def _overtrained(of: dict[str, Base], name: str) -> Pair:
    """A network of 200 epochs on columns of which a fifth of the labels is wrong: sure of nearly every row."""
    pair = _noisy(of, name, 0.2)
    rows = pair.split == "train"
    part = ([pair.inputs["x"][rows]], pair.targets[rows])
    content = table_mlp(Split(part, part, part, part, pair.names, name), inside=None, name="overtrained", how=_LONG)
    return replace(pair, model=content)


def _priors(of: dict[str, Base], name: str) -> Pair:
    """Declared as they are among the rows, but for two digits."""
    pair = of[name].pair
    shares = np.bincount(pair.targets, minlength=len(pair.names)) / len(pair.targets)
    rounded = [round(float(share), 2) for share in shares]
    rounded[-1] = round(1 - sum(rounded[:-1]), 2)
    return replace(pair, job_options={"class_priors": dict(zip(pair.names, rounded, strict=True))})


def _expected(of: dict[str, Base], name: str) -> Pair:
    """Expected as its owner measured it, on other rows: three points off."""
    return replace(of[name].pair, job_options={"expected_accuracy": round(accuracy(of[name].pair) - 0.03, 2)})


def _fewer_of_a_class(of: dict[str, Base], name: str) -> Pair:
    """Calibration and test rows of half of the classes are thinned to a quarter: other shares than at training."""
    pair = of[name].pair
    rare = (pair.targets % 2 == 0) & (pair.split != "train")
    return pair.rows(np.flatnonzero(~rare | (np.random.default_rng(5).random(len(rare)) < 0.25)))


def _later_images(of: dict[str, Base], name: str, change: Callable[[Array], Array]) -> Pair:
    """Calibration and test images of another camera."""
    base = of[name]

    def changed(x: Array) -> Array:
        unit = {"unit": x, "pixels": x / 255, "normalised": x * base.std + base.mean}[base.wants]
        other = {
            "unit": change(unit),
            "pixels": 255 * change(unit),
            "normalised": (change(unit) - base.mean) / base.std,
        }
        rows = base.pair.split == "train"
        return np.where(rows[:, None, None, None], x, other[base.wants]).astype(np.float32)

    return base.pair.with_inputs(changed)


def _bytes(of: dict[str, Base]) -> Pair:
    return of["CNN, pixels"].pair.with_inputs(lambda x: x.astype(np.uint8))


def _dark(unit: Array) -> Array:
    return 0.65 * unit


def _foggy(unit: Array) -> Array:
    return 0.25 + 0.6 * unit


_Make = Callable[[dict[str, Base]], Pair]


def _each(title: str, make: Callable[..., Pair], *names: str, **options: object) -> dict[str, _Make]:
    """The same of several bases."""
    return {f"{title}, {name}": partial(make, name=name, **options) for name in names}


def _made(make: Callable[[], Pair]) -> _Make:
    """A pair that needs none of the bases."""
    return lambda _: make()


_OTHERS: dict[str, _Make] = {
    "pixels as uint8, scaled in the graph": _bytes,
    **_each("numbers as labels", _unnamed, "CNN, unit", "text, ids", "MLP, standardised", "forest, raw"),
    **{
        f"names in the dataset only, {table}": _made(partial(_names_in_dataset_only, table))
        for table in ("segment", "vehicle", "cancer")
    },
    **_each("30 % wrong labels", _noisy, "MLP, standardised", "MLP, scaler in the graph", share=0.3),
    **_each("30 % wrong labels", _noisy, "forest, raw", "logistic, standardised", share=0.3),
    **_each("shifted", _shifted, "MLP, standardised", column=1),
    **_each("shifted", _shifted, "MLP, scaler in the graph", column=5),
    **_each("shifted", _shifted, "forest, raw", column=0),
    **_each("shifted", _shifted, "logistic, scaler in the graph", column=3),
    **_each("sixty groups", _grouped, "MLP, standardised", "forest, raw", "logistic, scaler in the graph"),
    "iris, logistic": _made(partial(_few, "iris", scaled_logistic)),
    "wine, forest": _made(partial(_few, "wine", scaled_forest)),
    "wine, MLP": _made(partial(_few, "wine", partial(table_mlp, inside=None, name="wine-raw"))),
    "many zeros, spam, logistic": _made(partial(_raw, "spam", scaled_logistic)),
    "many zeros, spam, forest": _made(partial(_raw, "spam", scaled_forest)),
    "many zeros, caravan, logistic": _made(partial(_raw, "caravan", scaled_logistic)),
    "raw, page-blocks0, forest": _made(partial(_raw, "page-blocks0", scaled_forest)),
    "raw, shuttle, logistic": _made(partial(_raw, "shuttle", scaled_logistic)),
    **_each("overtrained", _overtrained, "MLP, standardised"),
    **_each("priors as they are", _priors, "logistic, standardised", "forest, raw"),
    **_each("accuracy as expected", _expected, "CNN, unit", "forest, raw", "logistic, standardised"),
    **_each("half of the classes thinned", _fewer_of_a_class, "CNN, normalised", "MLP, standardised", "text, ids"),
    **_each("darker images later", _later_images, "CNN, unit", "pretrained, normalised", change=_dark),
    **_each("foggy images later", _later_images, "CNN, normalised", change=_foggy),
}


def base_models() -> list[Base]:
    """The models that mistakes are made with."""
    return [kept(name, partial(make, name)) for name, make in BASES.items()]
