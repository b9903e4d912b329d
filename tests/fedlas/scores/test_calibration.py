"""One score or several signals, from a table to a report and a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from sklearn.linear_model import LogisticRegression

from fedlas.contract.scores import WantedPromise
from fedlas.scores.calibration import calibrate_table
from fedlas.scores.curve import Evidence, fit_curve, sigmoid
from fedlas.scores.graph import write
from fedlas.scores.table import ScoreTable

WORDS = ("wrong", "right")


def judge(count: int, *, seed: int = 0, spread: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of a judge that says too much, whether rows are right, and how probable that is."""
    rng = np.random.default_rng(seed)
    logits = 2 + spread * rng.normal(size=count)
    probs = sigmoid(logits)
    return sigmoid(2.5 * logits + 0.5), (rng.random(count) < probs).astype(np.int64), probs


def nll(probs: np.ndarray, truth: np.ndarray) -> float:
    return float(-(truth * np.log(probs) + (1 - truth) * np.log(1 - probs)).mean())


def table(scores: np.ndarray, right: np.ndarray, **more: object) -> ScoreTable:
    return ScoreTable({"score": scores}, right, WORDS, **more)  # type: ignore[arg-type]


def test_the_curve_is_near_the_truth() -> None:
    """At 500 rows the expected NLL on fresh rows is within 2 % of the truth's, and below scikit-learn's Platt."""
    scores, right, _ = judge(500)
    fresh, _, truth = judge(20_000, seed=1)
    curve, _ = fit_curve(Evidence(scores, right, None, np.ones(500)))
    platt = LogisticRegression(C=1e6).fit(scores[:, None], right).predict_proba(fresh[:, None])[:, 1]
    assert nll(truth, truth) < nll(sigmoid(curve(fresh)), truth) < min(1.02 * nll(truth, truth), nll(platt, truth))


def test_the_band_holds_the_truth() -> None:
    """Over twelve samples the 90 % band holds the true probability at 90 % of the scores, at least."""
    held = []
    for seed in range(12):
        scores, right, _ = judge(300, seed=seed)
        curve, _ = fit_curve(Evidence(scores, right, None, np.ones(300)))
        fresh, _, truth = judge(2000, seed=seed + 100)
        low, high = curve.band(fresh)
        assert (low <= sigmoid(curve(fresh)) + 1e-12).all()
        assert (sigmoid(curve(fresh)) <= high + 1e-12).all()
        held.append(((low <= truth) & (truth <= high)).mean())
    assert np.mean(held) >= 0.9


@pytest.mark.parametrize("change", [lambda s: 10 * s - 3, lambda s: -s, lambda s: s * 1e9])
def test_scale_and_direction_change_nothing(change) -> None:
    """A score of another scale or direction has the same accepted rows."""
    scores, right, _ = judge(1000)
    plain, other = (calibrate_table(table(values, right)).report.promise for values in (scores, change(scores)))
    assert (other.accepted_rows, other.errors) == (plain.accepted_rows, plain.errors)
    assert other.threshold == pytest.approx(change(np.float64(plain.threshold)))


def test_a_missing_score_has_the_probability_of_missing_scores() -> None:
    """Rows without a score are right as often as such rows were."""
    scores, right, _ = judge(400)
    scores[:100], right[:100] = np.nan, np.arange(100) % 4 == 0
    model = calibrate_table(table(scores, right)).model
    assert sigmoid(model.log_odds(np.array([[np.nan]])))[0] == pytest.approx(26 / 102)


def test_slices_pay_for_their_number() -> None:
    """Each slice has a threshold of its own rows, by a level that is divided by their number; three rows have none."""
    scores, right, _ = judge(2003)
    slices = np.array(["a"] * 1000 + ["b"] * 1000 + ["few"] * 3)
    promise = calibrate_table(table(scores, right, slice="kind", slices=slices)).report.promise
    a, _, few = promise.per_slice
    alone = calibrate_table(table(scores[:1000], right[:1000])).report.promise
    assert (few.threshold, few.num_rows) == (None, 3)
    assert a.threshold >= alone.threshold


def test_a_second_look_is_paid_for() -> None:
    """Rows that have judged before accept fewer, or none."""
    scores, right, _ = judge(1000)
    first, second = (calibrate_table(table(scores, right), looks_before=looks).report for looks in (0, 3))
    assert (second.promise.accepted_share or 0) < first.promise.accepted_share
    assert (first.looks, second.looks) == (0, 3)


def test_an_earlier_promise_answers_a_laxer_wish() -> None:
    """Where a later look proves less than what stands promised of the same rows, that is the answer, and it is said."""
    rows = table(*judge(400)[:2])
    strict = calibrate_table(rows).report.promise
    lax = WantedPromise(max_error=0.06)
    assert strict.answers(max_error=0.06, recall=None, confidence=0.95)
    assert not strict.answers(max_error=0.04, recall=None, confidence=0.95)
    alone, told = (calibrate_table(rows, lax, looks_before=9, earlier=known).report for known in ((), [strict]))
    assert (alone.promise.accepted_rows or 0) < strict.accepted_rows
    assert told.promise == strict
    assert "answers the wish of 6 % errors too" in " ".join(told.summary)
    assert (
        calibrate_table(rows, WantedPromise(max_error=0.3), looks_before=1, earlier=[strict]).report.promise.max_error
        == 0.3
    )


def test_verdicts() -> None:
    """A score that says too much is mended, a true one is not, and of twenty rows nothing is known."""
    scores, right, probs = judge(2000)
    assert calibrate_table(table(scores, right)).report.verdict == "post_hoc"
    assert calibrate_table(table(probs, right)).report.verdict == "unchanged"
    rng = np.random.default_rng(3)
    report = calibrate_table(table(rng.random(20), rng.integers(2, size=20))).report
    assert (report.verdict, report.promise.threshold) == ("undetermined", None)


def signals(count: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Two useful signals, of which one is inverted and often missing, a copy and a useless one."""
    rng = np.random.default_rng(seed)
    truth = 1 + 2 * rng.normal(size=count)
    first, second = truth + rng.normal(size=count), -truth + rng.normal(size=count)
    second[rng.random(count) < 0.2] = np.nan
    columns = {"signal_a": first, "signal_b": second, "signal_copy": 3 * first, "signal_noise": rng.normal(size=count)}
    return columns, (rng.random(count) < sigmoid(truth)).astype(np.int64), sigmoid(truth)


def test_several_signals_are_better_than_the_best() -> None:
    """A pool of inverted, missing, copied and useless signals is better than the best one, on fresh rows."""
    columns, right, _ = signals(1500)
    calibration = calibrate_table(ScoreTable(columns, right, WORDS))
    fresh, _, truth = signals(20_000, seed=1)
    pooled = sigmoid(calibration.model.log_odds(np.stack(list(fresh.values()), axis=1)))
    single, _ = fit_curve(Evidence(columns["signal_a"], right, None, np.ones(1500)))
    assert nll(pooled, truth) < nll(sigmoid(single(fresh["signal_a"])), truth) - 0.005
    assert calibration.report.promise.num_rows == 600  # two fifths fitted nothing
    assert calibration.report.influence["signal_noise"] < 0.2 < calibration.report.influence["signal_b"]


def test_too_few_groups_promise_nothing() -> None:
    """Several signals of three groups leave none that fitted nothing, and the sentence says so."""
    columns, right, _ = signals(60)
    promise = calibrate_table(ScoreTable(columns, right, WORDS, groups=np.arange(60) % 3)).report.promise
    assert (promise.threshold, promise.num_rows) == (None, 0)
    assert "fewer than five" in promise.sentence


@pytest.mark.parametrize("several", [False, True])
def test_the_file_computes_the_same(tmp_path: Path, several: bool) -> None:
    """ONNX Runtime gives the model's probabilities, of missing and extreme values too, from a few kilobytes."""
    columns, right, _ = signals(800)
    if not several:
        columns = {"score": columns["signal_b"]}
    rows = ScoreTable(columns, right, WORDS)
    calibration = calibrate_table(rows, WantedPromise(precision=0.9))
    path = tmp_path / "m.onnx"
    assert write(calibration, path, rows.values) < 1e-6
    assert path.stat().st_size < 30_000
    values = np.array([[1e12] * len(columns), [-1e12] * len(columns), [np.nan] * len(columns)])
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (probs,) = session.run(["probabilities"], {"scores": values})
    assert probs[:, 1] == pytest.approx(sigmoid(calibration.model.log_odds(values)), abs=1e-6)
    profile = json.loads(session.get_modelmeta().custom_metadata_map["fedlas_profile"])
    assert profile["scores"]["promise"]["max_error"] == pytest.approx(0.1)


def test_the_band_of_a_flat_curve_holds() -> None:
    """A score that means nothing has a band that misses its one probability at no more than a tenth of the knots."""
    rng = np.random.default_rng(0)
    missed = []
    for _ in range(20):
        curve, _ = fit_curve(Evidence(rng.random(2000), (rng.random(2000) < 0.8).astype(np.int64), None, np.ones(2000)))
        missed.append(((curve.low > 0.8) | (curve.high < 0.8)).mean())
    assert np.mean(missed) <= 0.1


def test_the_order_of_the_file_decides_nothing() -> None:
    """Rows that are sorted by their label have the answer of the same rows in any order, of tied scores too."""
    scores, right, _ = judge(2000)
    scores = np.ceil(5 * scores)
    order = np.argsort(right, kind="stable")
    sorted_, plain = (calibrate_table(table(scores[rows], right[rows])).report for rows in (order, np.arange(2000)))
    assert sorted_.promise == plain.promise
    lows, others = ([one.low for one in report.curve] for report in (sorted_, plain))
    assert lows == pytest.approx(others, abs=0.02)


def test_an_outlier_hides_nothing() -> None:
    """A single score of a million leaves the probabilities of the others as they are."""
    rng = np.random.default_rng(1)
    scores = rng.random(1000)
    right = (rng.random(1000) < 0.3 + 0.6 * scores).astype(np.int64)
    scores[0] = 1e6
    curve, _ = fit_curve(Evidence(scores, right, None, np.ones(1000)))
    assert sigmoid(curve(np.array([0.1, 0.9]))) == pytest.approx([0.36, 0.84], abs=0.06)
