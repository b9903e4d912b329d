"""`python -m benchmarks.eight_mistakes`: eight mistakes that were served as successes, each with four models.

Every case is a real job of the worker (post-hoc, so that a mistake that is missed costs seconds) and a dry run of the
same. Models, columns and amounts were chosen before any of them was run. Where a mistake makes no sense for a model:
the weak form of a model is the same kind on columns hidden in noise; a forest that is always sure is one full tree.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from benchmarks.bases import uploaded_probabilities
from benchmarks.classical import ClassicalBase
from benchmarks.data.common import Array, Split
from benchmarks.mistakes.answers import accuracy
from benchmarks.mistakes.bases import frame_of, frame_split, mapped, reordered, scaled_logistic, table_mlp
from benchmarks.mistakes.dry_run import Json, by_worker, job_by_worker
from benchmarks.mistakes.kept import kept
from benchmarks.mistakes.pair import Pair
from benchmarks.networks import BaseTraining

_LONG = BaseTraining(epochs=200, learning_rate=2e-3, optimizer="adamw")
_WEAK = 0.6
Train = Callable[[Split], bytes]


@dataclass(frozen=True)
class Four:
    """One of the four models: a table, whether its columns are standardised outside the graph, and two trainings."""

    table: str
    standardised: bool
    train: Train
    always_sure: Train


def _forest(trees: int, split: Split) -> bytes:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

    def make(seed: int) -> object:
        return RandomForestClassifier(trees, random_state=seed) if trees > 1 else DecisionTreeClassifier()

    return ClassicalBase(make).onnx(split, seed=0, name="forest")


def _unpenalised(split: Split) -> bytes:
    from sklearn.linear_model import LogisticRegression

    made = ClassicalBase(lambda seed: LogisticRegression(C=1e4, max_iter=1000))
    return made.onnx(split, seed=0, name="logistic")


def _mlp(split: Split, how: BaseTraining = _LONG, *, softmax: bool = False) -> bytes:
    content = table_mlp(split, inside=None, name=f"eight-{split.source}", how=how)
    return with_softmax(content) if softmax else content


_SURE_MLP = partial(_mlp, softmax=True)
MODELS = {
    "MLP": Four("segment", True, _mlp, _SURE_MLP),
    "forest": Four("vehicle", False, partial(_forest, 100), partial(_forest, 1)),
    "logistic": Four("satellite", False, scaled_logistic, _unpenalised),
    "weak MLP": Four("contraceptive", True, _mlp, _SURE_MLP),
}
#: Chosen after the checks had been written on the first four, and run once.
OTHERS = {
    "MLP, again": Four("texture", True, _mlp, _SURE_MLP),
    "forest, again": Four("page-blocks0", False, partial(_forest, 100), partial(_forest, 1)),
    "logistic, again": Four("penbased", False, scaled_logistic, _unpenalised),
    "weak MLP, again": Four("chile", True, _mlp, _SURE_MLP),
}


def with_softmax(content: bytes) -> bytes:
    """The same file with one more Softmax behind its answer."""
    model = onnx.load_from_string(content)
    output = next(entry for entry in model.graph.output if entry.name in ("logits", "probabilities"))
    inner = f"before_{len(model.graph.node)}"
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [inner if name == output.name else name for name in names]
    model.graph.node.append(helper.make_node("Softmax", [inner], ["probabilities"], axis=1))
    output.name = "probabilities"
    made: bytes = model.SerializeToString()
    return made


def _of_table(four: Four) -> tuple[Split, Array, Array]:
    """Rows of a table as the model wants them, and the mean and deviation of its raw columns."""
    split = reordered(frame_split(*frame_of(four.table)))
    names = tuple(f"class {name}" for name in split.class_names)  # digits as text would count as class indices
    split = replace(split, source=four.table, class_names=names)
    x = split.train[0][0]
    mean, std = x.mean(axis=0), np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    if not four.standardised:
        return split, np.zeros_like(mean), np.ones_like(std)
    return mapped(split, lambda rows: ((rows - mean) / std).astype(np.float32)), mean, std


def _pair(split: Split, train: Train) -> Pair:
    return Pair.of(train(split), split)


def _weak(split: Split, train: Train) -> Pair:
    """A model of columns in so much noise that it is right on fewer than 60 %."""
    spread = split.train[0][0].std(axis=0)
    for times in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0):
        rng = np.random.default_rng(0)
        noisy = mapped(split, lambda x: (x + times * spread * rng.normal(size=x.shape)).astype(np.float32))  # noqa: B023
        pair = _pair(replace(noisy, source=f"{split.source}-noise-{times}"), train)
        if accuracy(pair) < _WEAK:
            break
    return pair


def _circle(pair: Pair) -> Pair:
    return replace(pair, label=(pair.targets + 1) % len(pair.names))


def _copied(pair: Pair) -> Pair:
    """Half of the test rows are train rows; as many as there are train rows for."""
    test, train = np.flatnonzero(pair.split == "test"), np.flatnonzero(pair.split == "train")
    rows = np.arange(len(pair.split))
    rows[test[::2]] = train[: len(test[::2])]
    return replace(pair.rows(rows), split=pair.split)


def _ten_rows(pair: Pair) -> Pair:
    calibration = np.flatnonzero(pair.split == "calibration")
    return pair.rows(np.setdiff1d(np.arange(len(pair.split)), calibration[10:]))


def _in_unit_range(split: Split, train: Train) -> Pair:
    """Columns brought to 0 to 1, with a model of them that is sure of everything once they are multiplied."""
    low, high = (getattr(split.train[0][0], name)(axis=0) for name in ("min", "max"))
    width = np.where(high > low, high - low, 1)
    unit = mapped(split, lambda x: ((x - low) / width).clip(0, 1).astype(np.float32))
    return _pair(replace(unit, source=f"{split.source}-unit"), train)


def _worst(pair: Pair, change: Callable[[Array, int], Array]) -> Pair:
    """Of all columns that whose change harms the answers most: others would not be missed."""

    def changed(column: int) -> Pair:
        x = pair.inputs["x"].copy()
        x[:, column] = change(x[:, column], column)
        return replace(pair, inputs={"x": x})

    return min(map(changed, range(pair.inputs["x"].shape[1])), key=accuracy)


def cases(name: str) -> Iterator[tuple[str, tuple[str, ...], Pair]]:
    """The eight mistakes with one of the models: what was done, the codes that name it, and the pair."""
    four = {**MODELS, **OTHERS}[name]
    split, mean, std = _of_table(four)
    right = kept(f"eight {name}", lambda: _pair(split, four.train))
    weak = kept(f"eight weak-{name}", lambda: _weak(split, four.train))
    sure = kept(f"eight sure-{name}", lambda: _in_unit_range(split, four.always_sure))
    twice = right.model if b"probabilities" in right.model else with_softmax(right.model)

    def constant(values: Array, column: int) -> Array:
        return np.full_like(values, values.mean())

    def in_thousands(values: Array, column: int) -> Array:
        return (((values * std[column] + mean[column]) / 1000) - mean[column]) / std[column]

    scale = ("input_scale", "input_columns", "constant_answers")
    yield "labels in a circle, weak", ("label_order", "labels_from_one"), _circle(weak)
    yield "table × 255", scale, right.with_inputs(lambda x: 255 * x)
    yield "half of the test rows from train", ("judged without",), _copied(right)
    yield "10 calibration rows", ("few_rows",), _ten_rows(right)
    yield "× 255, always sure", (*scale, "saturated"), sure.with_inputs(lambda x: 255 * x)
    yield "softmax twice", ("softmax_twice",), replace(right, model=with_softmax(twice))
    yield "a constant column", ("input_columns", "constant_column"), _worst(right, constant)
    yield "a unit in thousands", scale, _worst(right, in_thousands)


def outcome(pair: Pair, codes: tuple[str, ...]) -> Json:
    """What the job did: stopped by a code, judged without the rows concerned, a warning alone, or nothing."""
    with tempfile.TemporaryDirectory(prefix="fedlas-eight-") as folder:
        job = job_by_worker(pair, Path(folder))
    planned = by_worker(pair, "post_hoc")
    said = [
        notice["code"] for notice in (*planned.warnings, *job.warnings) if notice["code"] not in ("budget", "dataset")
    ]
    test = int((pair.split == "test").sum())
    if job.error is not None:
        found = "stopped" if job.error["code"] in codes else f"stopped ({job.error['code']})"
    elif "judged without" in codes and job.test_rows is not None and job.test_rows <= test / 2 + 1:
        found = "judged without"
    else:
        found = "warning" if {*said} & {*codes} else "silent"
    rows = pair.split == "calibration"
    sure = uploaded_probabilities(pair.model, [array[rows] for array in pair.inputs.values()]).max(axis=1).mean()
    return {
        "outcome": found,
        "code": job.error and job.error["code"],
        "dry_run": planned.fails_with or (planned.error and planned.error["code"]),
        "said": sorted({*said}),
        "verdict": job.verdict,
        "test_rows": job.test_rows,
        "accuracy": round(accuracy(pair), 3),
        "confidence": round(float(sure), 4),
        "message": job.error and job.error["message"],
    }


def main() -> None:
    """All 32, or those whose name holds `--only`, or those of four other models; `--out` names a file for the rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eight_mistakes", description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name holds this: MISTAKE × MODEL")
    parser.add_argument("--again", action="store_true", help="four other models, of other tables")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for model in OTHERS if asked.again else MODELS:
        for mistake, codes, pair in cases(model):
            if asked.only in f"{mistake} × {model}":
                rows.append({"mistake": mistake, "model": model, **outcome(pair, codes)})
                print(*(f"{value}" for key, value in rows[-1].items() if key != "message"), sep=" | ", flush=True)
    good = sum(row["outcome"].startswith(("stopped", "judged")) for row in rows)
    print(f"stopped or judged without the rows: {good} of {len(rows)}")
    if asked.out:
        asked.out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
