"""One setting and seed: race, peers and gate, everything chosen on calibration rows and scored on test rows."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.common import Rows, Split
from benchmarks.peers import Peer, best_of_netcal, best_of_probmetrics
from benchmarks.settings import SETTINGS, load
from fedlas import metrics
from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.classifier import Classifier
from fedlas.gate.claims import GateVerdict
from fedlas.gate.gate import judge
from fedlas.metrics.noise_floor import floor_draws
from fedlas.race.candidates import Candidate, make_loss
from fedlas.race.race import run_race
from fedlas.race.recipe import make_candidates
from fedlas.race.results import CandidateResult, RaceResult
from fedlas.training.fit import fit, predict_logits
from fedlas.training.loop import TrainConfig

Floats = NDArray[np.float64]
Json = dict[str, Any]

MAX_ACCURACY_DROP = 0.005
BASE, BASE_TS, POST_HOC, TRAINED, SERVED = (
    "base",
    "base + TS",
    "FedLAS service: post-hoc finalist",
    "FedLAS service: trained finalist",
    "served by the gate",
)
CROSS_ENTROPY, FEDLAS = "cross-entropy, best rate, + TS", "FedLAS, best candidate, + TS"
PROBMETRICS, NETCAL = "probmetrics, best", "netcal, best"
SAME_LABELS = "FedLAS service: finalist that keeps every label"
#: What is served where the verdict names a finalist, or none.
SERVES = {"trained": TRAINED, "post_hoc": POST_HOC, "same_labels": SAME_LABELS, None: BASE}
#: The order of the table, and what the served model is compared with.
POLICIES = (BASE, BASE_TS, PROBMETRICS, NETCAL, CROSS_ENTROPY, FEDLAS, POST_HOC, SAME_LABELS, TRAINED, SERVED)
RIVALS = (BASE_TS, PROBMETRICS, NETCAL)
PROPER: tuple[Literal["brier", "nll"], ...] = ("brier", "nll")
_METRICS = (metrics.accuracy, metrics.ece, metrics.nll, metrics.brier, metrics.aurc)


def run(name: str, seed: int, *, minutes: float | None = None, quick: bool = False) -> Json:
    """Everything that the tables need, ready for JSON; `quick` uses little data, two epochs and half a minute."""
    setting = SETTINGS[name]
    began = time.perf_counter()
    network, split = load(name, seed, quick=quick)
    print(f"{name} seed {seed}: base after {time.perf_counter() - began:.0f} s", flush=True)
    budget = 60 * (minutes or (0.5 if quick else setting.minutes))
    candidates = make_candidates("auto", {"epochs": 2} if quick else {}, fresh_rows=setting.fresh)
    started = time.perf_counter()
    result = raced(network, split, candidates, budget, seed)
    race_seconds = time.perf_counter() - started
    print(f"  race of {race_seconds:.0f} s: {result.trained.result.name if result.trained else 'none'}", flush=True)
    peers = _peers(result.base_logits, split, predict_logits(network, split.test[0])[0])
    rivals = _trained_rivals(network, split, result.candidates, seed)
    probs = _policies(network, split, result, peers, {key: rival[1] for key, rival in rivals.items()})
    judgement = judged(probs, split, setting.provenance, seed)
    probs[SERVED] = probs[SERVES[judgement.finalist]]
    return {
        "setting": name,
        "seed": seed,
        "source": split.source,
        "rows": [len(rows[1]) for rows in (split.train, split.calibration, split.test)],
        "minutes": budget / 60,
        "seconds": {"race": round(race_seconds, 1), "all": round(time.perf_counter() - began, 1)},
        **_verdict(judgement),
        "chosen": _chosen(result, peers, {key: rival[0] for key, rival in rivals.items()}),
        "test": {policy: scores(probs[policy], split.test[1]) for policy in POLICIES if policy in probs},
        "served_minus": {rival: differences(probs[SERVED], probs[rival], split) for rival in RIVALS},
        "peers_cross_fitted": {peer.library: rounded(peer.cross_fitted) for peer in peers.values()},
        "candidates": [{**one.as_dict(), "seconds": round(one.seconds, 3)} for one in result.candidates],
        "notes": list(result.notes),
    }


def raced(
    network: Classifier, split: Split, candidates: Sequence[Candidate], budget_seconds: float, seed: int
) -> RaceResult:
    return run_race(
        network,
        train=split.train,
        calibration=split.calibration,
        candidates=candidates,
        budget_seconds=budget_seconds,
        max_accuracy_drop=MAX_ACCURACY_DROP,
        seed=seed,
        task="binary" if split.num_classes == 2 else "multiclass",
        groups=split.calibration_groups,
    )


def _peers(calibration: NDArray[Any], split: Split, test: NDArray[Any]) -> dict[str, Peer]:
    targets = split.calibration[1]
    return {
        PROBMETRICS: best_of_probmetrics(calibration, targets, test),
        NETCAL: best_of_netcal(calibration, targets, test),
    }


def _trained_rivals(
    network: Classifier, split: Split, results: Sequence[CandidateResult], seed: int
) -> dict[str, tuple[str, Floats]]:
    """The best finished candidate of cross-entropy and of FedLAS, trained once more exactly as in the race, with TS.

    The race keeps only what it names, so these two are trained again: the same seed gives the same network.
    """
    found = {}
    for policy, methods in ((CROSS_ENTROPY, ("cross_entropy",)), (FEDLAS, ("fedlas", "fedlas_plus"))):
        mine = [c for c in results if c.method in methods and c.status == "finished" and c.calibration]
        if mine:
            best = min(mine, key=lambda c: (c.calibration or {})["nll"])
            found[policy] = (best.name, _again(network, split, best, seed))
    return found


def _again(network: Classifier, split: Split, result: CandidateResult, seed: int) -> Floats:
    used = result.hyperparameters
    known = {field.name for field in fields(Candidate)}
    candidate = Candidate(result.method, scope=result.scope, **{k: v for k, v in used.items() if k in known})
    config = TrainConfig(
        epochs=used["epochs"],
        batch_size=used["batch_size"],
        learning_rate=used["learning_rate"],
        seed=seed,
        scope="head" if result.scope == "head" else "all",
    )
    copied = copy.deepcopy(network)
    fit(copied, make_loss(candidate, network.num_classes, seed=seed), *split.train, config)
    return cooled(copied, split.calibration, split.test)


def cooled(network: Classifier, calibration: Rows, test: Rows) -> Floats:
    """Test probabilities (N, K) with one temperature of the calibration rows."""
    temperature = TemperatureScaling().fit(predict_logits(network, calibration[0])[0], calibration[1])
    probs: Floats = softmax(temperature(predict_logits(network, test[0])[0]))
    return probs


def _policies(
    network: Classifier, split: Split, result: RaceResult, peers: Mapping[str, Peer], rivals: Mapping[str, Floats]
) -> dict[str, Floats]:
    logits = predict_logits(network, split.test[0])[0]
    probs = {BASE: softmax(logits), BASE_TS: softmax(result.temperature(logits))}
    probs |= {policy: peer.probs for policy, peer in peers.items()} | dict(rivals)
    probs[POST_HOC] = result.post_hoc.probs(split.test[0])
    if result.same_labels is not result.post_hoc:
        probs[SAME_LABELS] = result.same_labels.probs(split.test[0])
    if result.trained is not None:
        probs[TRAINED] = result.trained.probs(split.test[0])
    return probs


def judged(probs: Mapping[str, Floats], split: Split, provenance: str, seed: int) -> GateVerdict:
    return judge(
        uploaded=probs[BASE],
        post_hoc=probs[POST_HOC],
        trained=probs.get(TRAINED),
        same_labels=probs.get(SAME_LABELS),
        targets=split.test[1],
        groups=split.test_groups,
        provenance=provenance,
        max_accuracy_drop=MAX_ACCURACY_DROP,
        seed=seed,
    )


def _verdict(judgement: GateVerdict) -> Json:
    return {
        "verdict": judgement.verdict,
        "finalist": judgement.finalist,
        "guards_failed": [f"{g.finalist}: {g.name}" for g in judgement.guards if not g.passed],
        "sentences": list(judgement.sentences),
    }


def _chosen(result: RaceResult, peers: Mapping[str, Peer], rivals: Mapping[str, str]) -> dict[str, str]:
    chosen = {POST_HOC: result.post_hoc.result.name, **{policy: peer.chosen for policy, peer in peers.items()}}
    if result.same_labels is not result.post_hoc:
        chosen[SAME_LABELS] = result.same_labels.result.name
    if result.trained is not None:
        chosen[TRAINED] = result.trained.result.name
    return chosen | dict(rivals)


def scores(probs: Floats, targets: NDArray[np.int64]) -> dict[str, float]:
    """Five metrics, and the mean and the 97.5 % point of the ECE of calibrated models with these confidences."""
    found = {function.__name__: float(function(probs, targets)) for function in _METRICS}
    draws = floor_draws(np.asarray(probs, np.float64), num_bins=15, num_draws=300, seed=0)[:, 0]
    return rounded(found | {"ece_floor": float(draws.mean()), "ece_floor_high": float(np.quantile(draws, 0.975))})


def differences(probs: Floats, baseline: Floats, split: Split) -> Json:
    """Mean paired differences of both proper scores with 95 % bootstrap intervals, by groups where there are any."""
    found: Json = {}
    for kind in PROPER:
        ours, theirs = (metrics.row_scores(p, split.test[1], score=kind) for p in (probs, baseline))
        estimate = metrics.paired_bootstrap(ours - theirs, groups=split.test_groups, num_resamples=2000, seed=0)
        found[kind] = rounded(asdict(estimate))
    return found


def rounded(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Five decimals; what is not finite becomes None, since JSON has no word for it."""
    return {
        key: (round(value, 5) if np.isfinite(value) else None) if isinstance(value, float) else value
        for key, value in numbers.items()
    }
