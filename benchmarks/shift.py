"""What the served model's promises are worth on damaged images: `python benchmarks/shift.py`; it knows no service.

The three-layer CNN on Fashion-MNIST is calibrated as in the calibration benchmark, then the test images get noise, blur
or a rotation of three severities, which no calibration row has seen. Nothing is fitted on them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read once, when the libraries are loaded
    os.environ.setdefault(_name, "1")
sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, so that `benchmarks` is a package

import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.data.common import Split, missing  # noqa: E402
from benchmarks.data.images import fashion_guarantee  # noqa: E402
from benchmarks.runs import BASE, BASE_TS, POST_HOC, SAME_LABELS, SERVES, TRAINED, judged, raced, rounded  # noqa: E402
from benchmarks.settings import SETTINGS, load  # noqa: E402
from fedlas import metrics  # noqa: E402
from fedlas.calibrators import softmax  # noqa: E402
from fedlas.guarantees import Guarantees, Unreachable  # noqa: E402
from fedlas.race.recipe import make_candidates  # noqa: E402
from fedlas.training.fit import predict_logits  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "shift"
SEVERITIES = {"noise": (0.05, 0.1, 0.2), "blur": (0.5, 1.0, 2.0), "rotation": (10.0, 20.0, 40.0)}
PROMISED_ERRORS = (0.02, 0.05)

Images = NDArray[np.float32]
Predict = Callable[[list[Any]], NDArray[np.float64]]
Json = dict[str, Any]


def damaged(images: Images, seed: int) -> Iterator[tuple[str, Images]]:
    """The images (N, 1, 28, 28) as they are, then with every damage in every severity."""
    yield "as they are", images
    for severity in SEVERITIES["noise"]:
        noise = np.random.default_rng(seed).normal(0, severity, images.shape)
        yield f"noise, σ {severity:g}", np.clip(images + noise, 0, 1).astype(np.float32)
    functional = _functional()
    for severity in SEVERITIES["blur"]:
        blurred = functional.gaussian_blur(torch.from_numpy(images), kernel_size=9, sigma=severity)
        yield f"blur, σ {severity:g} pixels", blurred.numpy()
    left = np.random.default_rng(seed).random(len(images)) < 0.5
    for severity in SEVERITIES["rotation"]:
        turned = images.copy()
        for side, angle in ((left, severity), (~left, -severity)):
            bilinear = functional.InterpolationMode.BILINEAR
            turned[side] = functional.rotate(torch.from_numpy(images[side]), angle, bilinear).numpy()
        yield f"rotation, ±{severity:g}°", turned


def run(seed: int, *, minutes: float | None, quick: bool) -> Json:
    """Every damage for the uploaded model, with a temperature, and as served."""
    network, split = load("fashion", seed, quick=quick)
    setting = SETTINGS["fashion"]
    candidates = make_candidates("auto", {"epochs": 2} if quick else {})
    result = raced(network, split, candidates, 60 * (minutes or (0.5 if quick else setting.minutes)), seed)

    def uploaded(inputs: list[Any]) -> NDArray[np.float64]:
        return softmax(predict_logits(network, inputs)[0])

    def with_temperature(inputs: list[Any]) -> NDArray[np.float64]:
        return softmax(result.temperature(predict_logits(network, inputs)[0]))

    models: dict[str, Predict] = {BASE: uploaded, BASE_TS: with_temperature, POST_HOC: result.post_hoc.probs}
    if result.same_labels is not result.post_hoc:
        models[SAME_LABELS] = result.same_labels.probs
    if result.trained is not None:
        models[TRAINED] = result.trained.probs
    probs = {name: model(split.test[0]) for name, model in models.items()}
    judgement = judged(probs, split, setting.provenance, seed)
    chosen: dict[str, Predict] = {
        BASE: uploaded,
        BASE_TS: with_temperature,
        "served": models[SERVES[judgement.finalist]],
    }
    thresholds = _thresholds(chosen["served"], seed, split)
    rows = [_line(name, images, chosen, split, thresholds) for name, images in damaged(split.test[0][0], seed)]
    return {"seed": seed, "verdict": judgement.verdict, "thresholds": rounded(thresholds), "rows": rows}


def _thresholds(served: Predict, seed: int, split: Split) -> dict[str, float]:
    """The confidence above which the promised errors hold, by rows that nothing else has used.

    An error that cannot be promised has no threshold.
    """
    inputs, targets = fashion_guarantee(seed)
    guarantees = Guarantees.fit(served(inputs), targets, class_names=split.class_names)
    found = {}
    for error in PROMISED_ERRORS:
        try:
            found[f"{error:g}"] = guarantees.threshold_for(error)
        except Unreachable as problem:
            print(f"  seed {seed}: {problem}", flush=True)
    return found


def _line(damage: str, images: Images, models: dict[str, Predict], split: Split, thresholds: dict[str, float]) -> Json:
    targets = split.test[1]
    functions = (metrics.accuracy, metrics.ece, metrics.brier)
    probs = {name: model([images]) for name, model in models.items()}
    found: Json = {"damage": damage}
    for name, predicted in probs.items():
        found[name] = rounded({f.__name__: float(f(predicted, targets)) for f in functions})
    wrong = probs["served"].argmax(axis=1) != targets
    found["promises"] = {}
    for error, threshold in thresholds.items():
        accepted = probs["served"].max(axis=1) >= threshold
        realised = float(wrong[accepted].mean()) if accepted.any() else 0.0
        found["promises"][error] = rounded({"accepted": float(accepted.mean()), "error": realised})
    return found


def table(runs: list[Json]) -> str:
    """Markdown: means over seeds."""
    promised = [error for error in map("{:g}".format, PROMISED_ERRORS) if all(error in r["thresholds"] for r in runs)]
    lines = [
        "| test images | accuracy % base, served | ECE % base, base + TS, served | Brier base, base + TS, served |"
    ]
    lines[0] += "".join(f" errors % where ≤ {100 * float(e):g} was promised (accepted %) |" for e in promised)
    lines.append("|---|---|---|---|" + "---|" * len(promised))
    for at, row in enumerate(runs[0]["rows"]):
        same = [r["rows"][at] for r in runs]
        cells = [_means(same, (BASE, "served"), "accuracy", 100, 1)]
        cells += [_means(same, (BASE, BASE_TS, "served"), "ece", 100, 2)]
        cells += [_means(same, (BASE, BASE_TS, "served"), "brier", 1, 3)]
        for error in promised:
            kept = [row["promises"][error] for row in same]
            mean = {key: 100 * float(np.mean([k[key] for k in kept])) for key in ("error", "accepted")}
            mark = " ✗" if mean["error"] > 100 * float(error) else ""
            cells.append(f"{mean['error']:.2f}{mark} ({mean['accepted']:.0f})")
        lines.append(f"| {row['damage']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _means(rows: list[Json], models: tuple[str, ...], metric: str, scale: float, digits: int) -> str:
    return ", ".join(f"{scale * np.mean([row[model][metric] for row in rows]):.{digits}f}" for model in models)


def _functional() -> Any:
    try:
        from torchvision.transforms import functional
    except ImportError:
        raise missing("torchvision", "`pip install torchvision` brings it") from None
    return functional


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="budget of a race")
    parser.add_argument("--quick", action="store_true", help="little data, two epochs, half a minute, not kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for seed in options.seeds:
        path = RESULTS / f"{seed}.json"
        if path.exists() and not options.quick:
            runs.append(json.loads(path.read_text()))
            continue
        runs.append(run(seed, minutes=options.minutes, quick=options.quick))
        if not options.quick:
            RESULTS.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(runs[-1], indent=1, ensure_ascii=False) + "\n")
    print(table(runs))


if __name__ == "__main__":
    main()
