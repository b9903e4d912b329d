"""The peers' stage of the calibration benchmark: a plain temperature, and each library's best by cross-fitted NLL."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from benchmarks.data.common import missing

Floats = NDArray[np.float64]
Targets = NDArray[np.int64]
#: `method(calibration logits, calibration targets, new logits) -> probabilities of the new rows`.
Method = Callable[[Floats, Targets, Floats], Floats]
FOLDS = 5
_TINY = 1e-12  # binning methods answer 0 and 1, whose logarithm no mean survives
PROBMETRICS = ("logistic", "logistic-mix", "svs", "ts-mix", "isotonic")
NETCAL = {
    "temperature": ("scaling", "TemperatureScaling"),
    "logistic": ("scaling", "LogisticCalibration"),
    "beta": ("scaling", "BetaCalibration"),
    "isotonic": ("binning", "IsotonicRegression"),
    "histogram": ("binning", "HistogramBinning"),
    "bbq": ("binning", "BBQ"),
}


@dataclass(frozen=True)
class Peer:
    """The chosen method of a library: `probs` (N, K) of new rows, cross-fitted NLL by method, inf where one failed."""

    library: str
    chosen: str
    probs: Floats
    cross_fitted: dict[str, float]


def make_peers(folder: Path) -> None:
    """Leave `peers.npz`, probabilities (N, K) of hidden rows, and `peers.json`, the choice."""
    rows = np.load(folder / "logits.npz")
    calibration, targets, hidden = rows["calibration"], rows["targets"], rows["hidden"]
    temperature = fitted_temperature(calibration, targets)
    bests = [best(calibration, targets, hidden) for best in (best_of_probmetrics, best_of_netcal)]
    chosen = {peer.library: {"chosen": peer.chosen, "nll": _finite(peer.cross_fitted)} for peer in bests}
    told = {"temperature": round(temperature, 5), **chosen}
    (folder / "peers.json").write_text(json.dumps(told, indent=1) + "\n")
    probs: dict[str, Any] = {peer.library: peer.probs for peer in bests}
    cooled = softmax(hidden / temperature, axis=1)
    unfinished = folder / "peers.unfinished.npz"
    np.savez_compressed(unfinished, uploaded=rows["uploaded"], temperature=cooled, **probs)
    unfinished.replace(folder / "peers.npz")


def _finite(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: round(score, 5) if np.isfinite(score) else None for name, score in scores.items()}


def fitted_temperature(logits: Floats, targets: Targets) -> float:
    """The temperature in [0.01, 100] of lowest NLL on these rows (Guo et al., arXiv 1706.04599)."""
    at = np.arange(len(targets)), targets
    found = minimize_scalar(
        lambda log_t: -log_softmax(logits / np.exp(log_t), axis=1)[at].mean(),
        bounds=(np.log(0.01), np.log(100)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def best_of_probmetrics(calibration: Floats, targets: Targets, test: Floats) -> Peer:
    """SMS (its recommendation, `logistic`: affine for two classes), the same with smoothing, SVS, TS, isotonic."""
    return _best("probmetrics", {name: probmetrics_method(name) for name in PROBMETRICS}, calibration, targets, test)


def best_of_netcal(calibration: Floats, targets: Targets, test: Floats) -> Peer:
    """Temperature, logistic (vector, Platt for two classes), beta, isotonic, histogram binning, BBQ."""
    return _best("netcal", {name: netcal_method(name) for name in NETCAL}, calibration, targets, test)


def _best(library: str, methods: Mapping[str, Method], calibration: Floats, targets: Targets, test: Floats) -> Peer:
    """The lowest cross-fitted NLL wins and is fitted again on all calibration rows."""
    calibration, test = np.asarray(calibration, np.float64), np.asarray(test, np.float64)
    scores = {name: _cross_fitted(method, calibration, targets) for name, method in methods.items()}
    for name in sorted(scores, key=scores.__getitem__):
        with contextlib.suppress(_Failed):
            return Peer(library, name, quietly(methods[name], calibration, targets, test), scores)
    raise RuntimeError(f"no method of {library} could be fitted on these rows")


def _cross_fitted(method: Method, logits: Floats, targets: Targets) -> float:
    fold = np.random.default_rng(0).permutation(len(targets)) % FOLDS
    probs = np.empty_like(logits)
    try:
        for i in range(FOLDS):
            probs[fold == i] = quietly(method, logits[fold != i], targets[fold != i], logits[fold == i])
    except _Failed:
        return float("inf")
    return float(-np.log(probs[np.arange(len(targets)), targets]).mean())


class _Failed(Exception):
    """A method that cannot do these rows: a class without rows, a solver that gave up, an answer that is not finite."""


def quietly(method: Method, logits: Floats, targets: Targets, new: Floats) -> Floats:
    """The method's probabilities, finite, positive and summing to one; what it prints and warns is dropped."""
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            probs = np.asarray(method(logits, targets, new), np.float64)
    except Exception as problem:  # another's library may raise anything
        raise _Failed(str(problem)) from problem
    if probs.shape != new.shape or not np.isfinite(probs).all():
        raise _Failed(f"answered {probs.shape}, finite: {np.isfinite(probs).all()}")
    probs = np.clip(probs, _TINY, None)
    normalised: Floats = probs / probs.sum(axis=1, keepdims=True)
    return normalised


def probmetrics_method(name: str) -> Method:
    def method(logits: Floats, targets: Targets, new: Floats) -> Floats:
        import torch

        calibrators, distributions = (
            _library("probmetrics", "probmetrics.calibrators"),
            _library("probmetrics", "probmetrics.distributions"),
        )
        calibrator = calibrators.get_calibrator(name)
        calibrator.fit_torch(distributions.CategoricalLogits(torch.from_numpy(logits)), torch.from_numpy(targets))
        answer = calibrator.predict_proba_torch(distributions.CategoricalLogits(torch.from_numpy(new)))
        probs: Floats = answer.get_probs().numpy()
        return probs

    return method


def netcal_method(name: str) -> Method:
    def method(logits: Floats, targets: Targets, new: Floats) -> Floats:
        module, kind = NETCAL[name]
        calibrator = getattr(_library("netcal", f"netcal.{module}"), kind)()
        binary = logits.shape[1] == 2
        probs, asked = softmax(logits, axis=1), softmax(new, axis=1)
        calibrator.fit(probs[:, 1] if binary else probs, targets)
        answer = np.asarray(calibrator.transform(asked[:, 1] if binary else asked), np.float64)
        if binary:
            positive = answer.reshape(len(new))
            return np.column_stack([1 - positive, positive])
        return answer.reshape(new.shape)

    return method


def _library(name: str, module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise missing(name, "`pip install -r benchmarks/requirements.txt` brings it") from None
