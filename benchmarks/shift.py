"""What the served model's promises are worth on damaged images: `python benchmarks/shift.py`; it knows no service.

The three-layer CNN on Fashion-MNIST of the calibration benchmark is calibrated by the library, then the hidden images
get noise, blur or a rotation of three severities, which no calibration row has seen. Nothing is fitted on them.
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

from benchmarks.bases import make_base  # noqa: E402
from benchmarks.data.common import cache_folder, missing  # noqa: E402
from benchmarks.data.images import FASHION_CLASSES, fashion, fashion_guarantee  # noqa: E402
from benchmarks.peers import fitted_temperature  # noqa: E402
from fedlas import metrics  # noqa: E402
from fedlas.calibration import CalibrationOptions, calibrate  # noqa: E402
from fedlas.calibrators import softmax  # noqa: E402
from fedlas.data import read_dataset  # noqa: E402
from fedlas.guarantees import Guarantees, Unreachable  # noqa: E402
from fedlas.importers import load_onnx  # noqa: E402
from fedlas.training.fit import predict_logits  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "shift"
SEVERITIES = {"noise": (0.05, 0.1, 0.2), "blur": (0.5, 1.0, 2.0), "rotation": (10.0, 20.0, 40.0)}
PROMISED_ERRORS = (0.02, 0.05)
BASE, BASE_TS = "base", "base + TS"

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


def run(seed: int, *, minutes: float) -> Json:
    """Every damage for the uploaded model, with a temperature, and as served."""
    folder = cache_folder() / "calibration" / f"fashion-{seed}"
    if not (folder / "model.onnx").exists():
        make_base("fashion", seed, folder)
    classifier, rows = load_onnx(folder / "model.onnx"), np.load(folder / "logits.npz")
    options = CalibrationOptions(budget_seconds=60 * minutes, seed=seed)
    found = calibrate(classifier, read_dataset(folder / "dataset.npz"), options)
    temperature = fitted_temperature(rows["calibration"], rows["targets"])

    def logits(inputs: list[Any]) -> NDArray[np.float64]:
        return np.asarray(predict_logits(classifier, inputs)[0], np.float64)

    models: dict[str, Predict] = {
        BASE: lambda inputs: softmax(logits(inputs)),
        BASE_TS: lambda inputs: softmax(logits(inputs) / temperature),
    }
    models["served"] = models[BASE] if found.finalist is None else found.finalist.probs
    hidden = fashion(seed).hidden
    thresholds = _thresholds(models["served"], seed)
    lines = [_line(name, images, models, hidden[1], thresholds) for name, images in damaged(hidden[0][0], seed)]
    return {"seed": seed, "verdict": found.verdict.verdict, "thresholds": rounded(thresholds), "rows": lines}


def _thresholds(served: Predict, seed: int) -> dict[str, float]:
    """The confidence above which the promised errors hold, by rows that nothing else has used.

    An error that cannot be promised has no threshold.
    """
    inputs, targets = fashion_guarantee(seed)
    guarantees = Guarantees.fit(served(inputs), targets, class_names=FASHION_CLASSES)
    found = {}
    for error in PROMISED_ERRORS:
        try:
            found[f"{error:g}"] = guarantees.threshold_for(error)
        except Unreachable as problem:
            print(f"  seed {seed}: {problem}", flush=True)
    return found


def _line(
    damage: str,
    images: Images,
    models: dict[str, Predict],
    targets: NDArray[np.int64],
    thresholds: dict[str, float],
) -> Json:
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


def rounded(numbers: dict[str, float]) -> dict[str, float | None]:
    """Five decimals; what is not finite becomes None, since JSON has no word for it."""
    return {key: round(value, 5) if np.isfinite(value) else None for key, value in numbers.items()}


def _functional() -> Any:
    try:
        from torchvision.transforms import functional
    except ImportError:
        raise missing("torchvision", "`pip install torchvision` brings it") from None
    return functional


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=10.0, help="budget of a race")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for seed in options.seeds:
        path = RESULTS / f"{seed}.json"
        if not path.exists():
            RESULTS.mkdir(parents=True, exist_ok=True)
            found = run(seed, minutes=options.minutes)
            path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        runs.append(json.loads(path.read_text()))
    print(table(runs))


if __name__ == "__main__":
    main()
