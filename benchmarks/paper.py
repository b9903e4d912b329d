"""FedLAS and its rivals trained from scratch: which of the paper's claims hold on garments (arXiv 2606.28654).

    OMP_NUM_THREADS=1 python -m benchmarks.paper                       # half an hour on two cores
    python -m benchmarks.paper --gpu                                   # resnet18 on all rows, on a card
    python -m benchmarks.paper --epochs 1 --seeds 0 --csv trial.csv    # whether it runs at all

A seed deals the rows of Fashion-MNIST, starts the network and orders its batches, the same for every loss. Rate, steps,
decay and batches are equal for all, without augmentation. Losses that are compared share α and margin: label smoothing
and FedLAS 0.05, MbLS and FedLAS+ 0.1 and 6. The digest of the method and the released configuration disagree on β of
FedLAS, so both run. Without its gate g is +1 for every row, and all else is FedLAS with β = 4: a longer norm always
smooths more. Settings were committed before the full run; length and rate were chosen so that cross-entropy is
overconfident on rows that score nothing here.

Each model is scored on the 10,000 test images as it is, and after one temperature that the calibration rows give. The
floor of the ECE is its mean over labels redrawn from the model's own probabilities. AUROC says how well digits of MNIST
are told from garments by a low maximum probability, and by entropy. A gate is open where g = +1; flips are the share of
2,000 train rows whose gate differs from the epoch before, the network in evaluation mode.

A finished run (loss, seed, settings) lies in the cache folder as logits and is not trained again.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from scipy.special import entr
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]
from torch import Tensor

from benchmarks.calibration_scores import Floats, Integers
from benchmarks.data.common import Array, Split, cache_folder
from benchmarks.data.images import fashion, mnist
from benchmarks.networks import Headed, batch_norm_cnn, resnet18
from fedlas.calibrators import Identity, TemperatureScaling, softmax
from fedlas.losses import FedLASLoss
from fedlas.losses.fedlas import BidirectionalCalibrationGate
from fedlas.metrics import accuracy, nll, signed_ece
from fedlas.metrics.l2_calibration_error import floor_draws
from fedlas.race.candidates import Candidate, make_loss
from fedlas.training.fit import fit, predict_logits
from fedlas.training.loop import EpochResult, TrainConfig, TrainingOptions

WITHOUT_GATE = "FedLAS without gate"
LOSSES = {
    "cross-entropy": Candidate("cross_entropy"),
    "label smoothing": Candidate("label_smoothing", alpha=0.05),
    "MbLS": Candidate("mbls", alpha=0.1, margin=6.0),
    "FedLAS, β = 0.5": Candidate("fedlas", alpha=0.05, beta=0.5, momentum=0.95),
    "FedLAS, β = 4": Candidate("fedlas", alpha=0.05, beta=4.0, momentum=0.95),
    "FedLAS+": Candidate("fedlas_plus", alpha=0.1, beta=0.5, momentum=0.95, margin=6.0),
    WITHOUT_GATE: Candidate("fedlas", alpha=0.05, beta=4.0, momentum=0.95),
}
#: The paper's O-ECE / U-ECE of CIFAR-10 with a ResNet-50, and its AUROC on foreign images, in %.
PAPER_ECE = {
    "cross-entropy": "5.85 / 0.00",
    "label smoothing": "1.16 / 2.45",
    "MbLS": "1.09 / 0.12",
    "FedLAS, β = 0.5": "0.89 / 0.40",
    "FedLAS, β = 4": "0.89 / 0.40",
    "FedLAS+": "1.11 / 0.02",
}
PAPER_AUROC = {"label smoothing": "72.9", "FedLAS, β = 0.5": "84.3", "FedLAS, β = 4": "84.3"}
SEEDS = (0, 1, 2)
WATCHED_ROWS = 2000
NUM_BINS = 15
FLOOR_DRAWS = 200
RESULTS = Path(__file__).parent / "results"

Row = dict[str, str | float]


@dataclass(frozen=True)
class Setting:
    """A network, its rows (train, calibration, none to test) and how it is trained."""

    build: Callable[[], Headed]
    channels: int
    sizes: tuple[int, int, int]
    how: TrainConfig
    device: str
    processes: int

    def kept(self, name: str, seed: int) -> Path:
        """Where the outputs of a finished run lie."""
        told = repr((self.build.__name__, self.sizes, self.how, name, LOSSES[name]))
        return cache_folder() / "paper" / f"{seed}-{sha256(told.encode()).hexdigest()[:12]}.npz"


HOW = TrainConfig(epochs=30, batch_size=128, learning_rate=0.1, weight_decay=5e-4)
ON_CORES = Setting(batch_norm_cnn, 1, (10_000, 5000, 0), HOW, "cpu", 2)
ON_CARD = Setting(resnet18, 3, (55_000, 5000, 0), HOW, "cuda", 1)


class OpenGate(BidirectionalCalibrationGate):
    """A gate that is +1 for every row; its weights get no gradient and stay as they are."""

    def soft(self, logits: Tensor) -> Tensor:
        return torch.ones_like(logits[:, 0])


class GateWatch:
    """The gates of some rows after every epoch: which share is open, and which share has flipped."""

    def __init__(self, network: Headed, loss: FedLASLoss, images: Array, device: str) -> None:
        self.network, self.loss, self.images, self.device = network, loss, images, device
        self.before: Tensor | None = None
        self.open: list[float] = []
        self.flips: list[float] = []

    @torch.no_grad()
    def __call__(self, _: EpochResult) -> None:
        logits = torch.from_numpy(predict_logits(self.network, [self.images], device=self.device)[0])
        is_open = self.loss.bcg.soft(logits.to(self.device)) > 0
        if self.before is not None:
            self.flips.append(float((is_open != self.before).float().mean()))
        self.open.append(float(is_open.float().mean()))
        self.before = is_open


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="resnet18 on 55,000 rows, on a card")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--epochs", type=int, default=HOW.epochs)
    parser.add_argument("--csv", type=Path, help="where the single runs go; results/paper.csv, or paper_gpu.csv")
    options = parser.parse_args()
    if options.gpu and not torch.cuda.is_available():
        parser.error("--gpu needs a card that PyTorch can use")
    began, setting = time.perf_counter(), ON_CARD if options.gpu else ON_CORES
    setting = replace(setting, how=replace(setting.how, epochs=options.epochs))
    rows = all_runs(setting, options.seeds)
    with (options.csv or RESULTS / ("paper_gpu.csv" if options.gpu else "paper.csv")).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print("\n".join(table(rows)))
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes", file=sys.stderr)


def all_runs(setting: Setting, seeds: Sequence[int]) -> list[Row]:
    """Two rows, raw and after a temperature, of every loss and seed."""
    jobs = [(setting, name, seed) for seed in seeds for name in LOSSES]
    if setting.processes == 1:
        return [row for job in jobs for row in run(job)]
    with ProcessPoolExecutor(setting.processes) as pool:
        return [row for found in pool.map(run, jobs) for row in found]


def run(job: tuple[Setting, str, int]) -> list[Row]:
    """The scores of one training, raw and after a temperature."""
    setting, name, seed = job
    torch.set_num_threads(1)
    split = fashion(seed, channels=setting.channels, sizes=setting.sizes)
    path = setting.kept(name, seed)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished.npz")  # another process may look while this one writes
        np.savez(unfinished, allow_pickle=False, **trained(setting, name, seed, split))
        unfinished.replace(path)
        print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
    with np.load(path) as kept:
        found = dict(kept)
    temperature = TemperatureScaling().fit(found["calibration"], split.calibration[1])
    gates = {kind: " ".join(f"{share:.4f}" for share in found.get(kind, [])) for kind in ("open", "flips")}
    rows: list[Row] = []
    for after, calibrator in (("raw", Identity()), ("temperature", temperature)):
        test, foreign = (softmax(calibrator(found[part])) for part in ("test", "foreign"))
        rows.append({"loss": name, "seed": seed, "after": after, **scores(test, split.hidden[1], foreign), **gates})
    return rows


def trained(setting: Setting, name: str, seed: int, split: Split) -> dict[str, Array]:
    """Logits of a network that was trained from scratch, and its gates epoch by epoch."""
    images, targets = split.train[0], split.train[1]
    torch.manual_seed(seed)
    network = setting.build().to(memory_format=torch.channels_last)  # twice as fast on two cores
    loss, watch = make_loss(LOSSES[name], network.num_classes, seed=seed), None
    if isinstance(loss, FedLASLoss):
        loss.bcg = OpenGate(network.num_classes) if name == WITHOUT_GATE else loss.bcg
        watch = GateWatch(network, loss, images[0][:WATCHED_ROWS], setting.device)
    options = TrainingOptions(on_epoch=watch)
    how = replace(setting.how, seed=seed)
    if fit(network, loss, images, targets, how, options, device=setting.device).diverged:
        raise RuntimeError(f"{name} diverged")
    parts = {"calibration": split.calibration[0], "test": split.hidden[0], "foreign": [digits(setting.channels)]}
    found = {part: predict_logits(network, inputs, device=setting.device)[0] for part, inputs in parts.items()}
    if watch is not None and name != WITHOUT_GATE:
        found |= {"open": np.array(watch.open), "flips": np.array(watch.flips)}
    return found


def digits(channels: int) -> Array:
    """The 5,000 digits, in the shape of the garments (N, channels, 28, 28)."""
    split = mnist(0)
    images = np.concatenate([rows[0][0] for rows in (split.train, split.calibration, split.test, split.hidden)])
    return np.repeat(images.reshape(-1, 1, 28, 28), channels, axis=1)


def scores(probs: Floats, targets: Integers, foreign: Floats) -> dict[str, float]:
    """Scores, as fractions, of probabilities (N, K) for garments, and AUROC against those of foreign images."""
    over, under = signed_ece(probs, targets, num_bins=NUM_BINS)
    floor = floor_draws(probs, num_bins=NUM_BINS, num_draws=FLOOR_DRAWS, seed=0)[:, 0]
    is_foreign, both = np.repeat([0, 1], [len(probs), len(foreign)]), np.concatenate([probs, foreign])
    return {
        "accuracy": accuracy(probs, targets),
        "nll": nll(probs, targets),
        "ece": over + under,
        "floor": float(floor.mean()),
        "over": over,
        "under": under,
        "auroc_maximum": float(roc_auc_score(is_foreign, -both.max(axis=1))),
        "auroc_entropy": float(roc_auc_score(is_foreign, entr(both).sum(axis=1))),
    }


def table(rows: Sequence[Row]) -> list[str]:
    """Means over the seeds with the lowest and the highest, in %, beside the paper's figures."""
    columns = ["accuracy", "NLL", "ECE", "its floor", "O-ECE", "U-ECE", "theirs: larger (O / U)"]
    columns += ["AUROC, maximum", "AUROC, entropy", "theirs: larger", "open gates", "flips: second, middle, last epoch"]
    lines = [f"| loss | | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for name in LOSSES:
        for after in ("raw", "temperature"):
            mine = [row for row in rows if (row["loss"], row["after"]) == (name, after)]
            raw = after == "raw"
            cells = [band(mine, "accuracy") if raw else "", band(mine, "nll", scale=1, digits=3)]  # T moves no label
            cells += [band(mine, "ece", digits=2), band(mine, "floor", digits=2).split()[0]]
            cells += [band(mine, kind, digits=2) for kind in ("over", "under")]
            cells += [PAPER_ECE.get(name, "") if raw else "", band(mine, "auroc_maximum"), band(mine, "auroc_entropy")]
            cells += [PAPER_AUROC.get(name, "") if raw else "", *(gates(mine) if raw else ("", ""))]
            lines.append(f"| {name if raw else ''} | {after} | {' | '.join(cells)} |")
    return lines


def band(rows: Sequence[Row], column: str, *, scale: float = 100, digits: int = 1) -> str:
    """A mean with its range over the seeds, such as `5.1 (4.8-5.5)`."""
    values = [scale * float(row[column]) for row in rows]
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def gates(rows: Sequence[Row]) -> tuple[str, str]:
    """Open gates after the last epoch, and flips in three epochs; nothing of a loss without a gate."""
    shares = {kind: 100 * np.array([str(row[kind]).split() for row in rows], np.float64) for kind in ("open", "flips")}
    if not shares["flips"].size:
        return "", ""
    ends = shares["open"][:, -1]
    flips = shares["flips"].mean(axis=0)
    told = " / ".join(f"{share:.1f}" for share in (flips[0], flips[len(flips) // 2], flips[-1]))
    return f"{ends.mean():.0f} ({ends.min():.0f}-{ends.max():.0f})", told


if __name__ == "__main__":
    main()
