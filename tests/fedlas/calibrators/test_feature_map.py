"""The map of the features on top of a temperature: its fit, its cross-fitting, its ONNX nodes and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fedlas import metrics
from fedlas.calibrators import MixtureScaling, TemperatureScaling, VectorScaling, softmax
from fedlas.calibrators.feature_map import FeatureScaling, cross_fit_features
from fedlas.race.results import make_folds, row_nll
from tests.helpers.drawn_labels import nll
from tests.helpers.written_calibrators import run_onnx

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def rows(number: int = 600, *, informative: bool = True, seed: int = 0, num_classes: int = 3) -> Rows:
    """Logits at twice their true size, features and targets; informative features hold what the logits lack."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(number, 6)) + 3
    truth = rng.normal(size=(number, num_classes))
    logits = 2 * truth
    if informative:
        truth = truth + (features - 3) @ rng.normal(size=(6, num_classes))
    return logits, features, (softmax(truth).cumsum(axis=1) > rng.random((number, 1))).argmax(axis=1)


def test_a_strong_ridge_leaves_the_temperature() -> None:
    """With a huge penalty the map vanishes: the calibrated logits are those of the temperature alone."""
    logits, features, targets = rows()
    fitted = FeatureScaling(strength=1e6).fit(logits, targets, features=features)
    plain = TemperatureScaling().fit(logits, targets)
    assert fitted.temperature == plain.temperature
    np.testing.assert_allclose(fitted(logits, features), plain(logits), atol=1e-4)


def test_it_is_the_ridge_that_scikit_learn_finds() -> None:
    """On zero logits it is multinomial logistic regression, to four digits (balanced, centred rows: no offset)."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(300, 4))
    half -= half.mean(axis=0)
    chosen = (half @ rng.normal(size=4) + rng.normal(size=300) > 0).astype(np.int64)
    features, targets = np.concatenate([half, -half]), np.concatenate([chosen, 1 - chosen])
    features /= np.sqrt(np.square(features).sum(axis=1).mean())
    fitted = FeatureScaling(strength=0.01).fit(np.zeros((600, 2)), targets, features=features)
    # Two columns of opposite sign, w and -w, have the penalty 2·w² for a difference of 2·w in the log-odds.
    referee = LogisticRegression(C=1 / (600 * 0.01), tol=1e-10, max_iter=10_000).fit(features, targets)
    np.testing.assert_allclose(fitted.matrix[:, 1] - fitted.matrix[:, 0], referee.coef_[0], rtol=1e-3)
    np.testing.assert_allclose(fitted.offset, 0, atol=1e-4)


def test_scale_and_shift_of_the_features_do_not_matter() -> None:
    """The penalty is on scaled features: features times a thousand plus ten give the same calibrated logits."""
    logits, features, targets = rows()
    one = FeatureScaling().fit(logits, targets, features=features)(logits, features)
    other = FeatureScaling().fit(logits, targets, features=1000 * features + 10)(logits, 1000 * features + 10)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_rows_of_weight_zero_do_not_count() -> None:
    """Rows of weight zero count neither in the fit nor in cross-fitting, whatever their features and labels are."""
    logits, features, targets = rows(300)
    odd = np.arange(300) % 3 == 0
    spoilt, wrong = np.where(odd[:, None], 1000.0, features), np.where(odd, 2 - targets, targets)
    one = FeatureScaling().fit(logits[~odd], targets[~odd], features=features[~odd])
    other = FeatureScaling().fit(logits, wrong, weights=5.0 * ~odd, features=spoilt)
    np.testing.assert_allclose(one(logits, features), other(logits, features), atol=1e-4)
    folds = [np.arange(300)[i::3] for i in range(3)]
    first, second = (
        cross_fit_features(logits, seen, labels, folds, weights=1.0 * ~odd)[0](logits, features)
        for seen, labels in ((features, targets), (spoilt, wrong))
    )
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_weights_count_rows() -> None:
    """A row of weight 2 is worth two rows."""
    logits, features, targets = rows(300)
    weights = np.where(np.arange(300) < 100, 2.0, 1.0)
    twice = np.concatenate([np.arange(300), np.arange(100)])
    weighted = FeatureScaling().fit(logits, targets, weights=weights, features=features)
    repeated = FeatureScaling().fit(logits[twice], targets[twice], features=features[twice])
    # Centre and size of the features come from the rows and shift the penalty a little.
    np.testing.assert_allclose(weighted(logits, features), repeated(logits, features), atol=0.05)


def test_cross_fitting_says_what_new_rows_say() -> None:
    """The cross-fitted NLL is that of 20,000 new rows within three standard errors, the own rows' is far too low."""
    logits, features, targets = rows(400, informative=False)
    new_logits, new_features, new_targets = rows(20_000, informative=False, seed=1)
    wide = np.random.default_rng(2)
    features, new_features = (
        np.hstack([f, wide.normal(size=(len(f), 60))]) for f in (features, new_features)
    )  # room for overfitting
    fitted, held_out = cross_fit_features(logits, features, targets, make_folds(targets, seed=0), strengths=(1e-4,))
    assert isinstance(fitted, FeatureScaling)
    truth = nll(fitted(new_logits, new_features), new_targets)
    error = row_nll(held_out, targets).std() / np.sqrt(400)
    assert nll(held_out, targets) == pytest.approx(truth, abs=3 * error)
    own = nll(FeatureScaling(strength=1e-4).fit(logits, targets, features=features)(logits, features), targets)
    assert own < truth - 3 * error


def test_no_row_is_judged_by_a_map_it_made() -> None:
    """Turning one row's label changes no cross-fitted answer to that row beyond the last step, which all rows share."""
    logits, features, targets = rows(300)
    folds = make_folds(targets, seed=0)
    other = targets.copy()
    other[7] = (targets[7] + 1) % 3
    answers = [cross_fit_features(logits, features, y, folds, strengths=(1e-2,))[1] for y in (targets, other)]
    np.testing.assert_array_equal(answers[0][7].argsort(), answers[1][7].argsort())
    np.testing.assert_allclose(softmax(answers[0][7:8]), softmax(answers[1][7:8]), atol=0.02)
    neighbour = next(i for fold in folds if 7 not in fold for i in fold)
    assert np.abs(answers[0][neighbour] / answers[1][neighbour] - 1).max() > 1e-4, "other folds do learn from it"


def test_the_strength_is_the_one_of_lowest_held_out_nll() -> None:
    """Noise calls for the strongest ridge, strong information for a weak one."""
    for informative, expected in ((False, 0.1), (True, 1e-4)):
        logits, features, targets = rows(1500, informative=informative)
        folds = make_folds(targets, seed=0)
        chosen, held_out = cross_fit_features(logits, features, targets, folds, strengths=(0.1, 1e-4))
        assert chosen.strength == expected
        for strength in (0.1, 1e-4):
            _, alone = cross_fit_features(logits, features, targets, folds, strengths=(strength,))
            assert nll(held_out, targets) <= nll(alone, targets)


def test_features_with_information_move_decisions_for_the_better() -> None:
    """On 5,000 new rows accuracy and NLL are those of the truth, nearly, where a temperature cannot get."""
    logits, features, targets = rows(4000)
    new = [part[2000:] for part in (logits, features, targets)]
    fitted = FeatureScaling(strength=1e-4).fit(logits[:2000], targets[:2000], features=features[:2000])
    plain = TemperatureScaling().fit(logits[:2000], targets[:2000])
    better, worse = softmax(fitted(new[0], new[1])), softmax(plain(new[0]))
    assert metrics.accuracy(better, new[2]) > metrics.accuracy(worse, new[2]) + 0.15
    assert metrics.nll(better, new[2]) < 0.7 * metrics.nll(worse, new[2])


def test_what_follows_the_map_is_applied_to_its_answers() -> None:
    """`then(mixture)` gives what the mixture gives for the map's own calibrated logits, and keeps the ridge."""
    logits, features, targets = rows()
    fitted = FeatureScaling(strength=0.01).fit(logits, targets, features=features)
    last = MixtureScaling(2.5, 0.1, 3)
    whole = fitted.then(last)
    np.testing.assert_allclose(whole(logits, features), last(fitted(logits, features)), rtol=1e-10)
    assert (whole.strength, whole.share) == (0.01, 0.1)


def test_parameters_bring_it_back() -> None:
    """A map made of `parameters` gives equal logits to the last bit."""
    logits, features, targets = rows()
    fitted = FeatureScaling().fit(logits, targets, features=features)
    np.testing.assert_array_equal(FeatureScaling(**fitted.parameters())(logits, features), fitted(logits, features))


@pytest.mark.parametrize("opset", [7, 9, 13, 18])
@pytest.mark.parametrize("kind", ["features", "structured_vector"])
def test_onnx_nodes_compute_the_same(kind: str, opset: int) -> None:
    """The nodes of a calibrator that reads features, and of one that does not, equal numpy by ONNX Runtime."""
    logits, features, targets = rows()
    calibrator, given = (FeatureScaling(), {"features": features}) if kind == "features" else (VectorScaling(), {})
    fitted = calibrator.fit(logits, targets, **given)
    found = run_onnx(fitted, logits, features, opset=opset)
    np.testing.assert_allclose(found, fitted(logits, features), rtol=1e-5, atol=1e-5)


def test_features_are_given_only_to_those_that_read_them() -> None:
    """A temperature, called like every calibrator, leaves the features alone."""
    logits, features, _ = rows(20)
    np.testing.assert_array_equal(TemperatureScaling(2.0)(logits, features), logits / 2)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (None, r"features \(N, D\) are needed"),
        (np.zeros(600), r"features must be \(600, D\) and finite, got \(600,\)"),
        (np.zeros((599, 6)), r"features must be \(600, D\) and finite, got \(599, 6\)"),
        (np.full((600, 6), np.nan), "finite"),
    ],
)
def test_wrong_features_are_refused(features: Any, message: str) -> None:
    """Missing, flat, too few or not finite features are a ValueError, in fitting and in applying."""
    logits, seen, targets = rows()
    with pytest.raises(ValueError, match=message):
        FeatureScaling().fit(logits, targets, features=features)
    fitted = FeatureScaling().fit(logits, targets, features=seen)
    with pytest.raises(ValueError, match=message):
        fitted(logits, features)


def test_features_without_spread_are_survived() -> None:
    """Constant features tell nothing and divide by nothing: finite logits, the temperature's but for an offset."""
    logits, _, targets = rows(informative=False)
    constant = np.full((600, 6), 7.0)
    answer = FeatureScaling().fit(logits, targets, features=constant)(logits, constant)
    assert np.isfinite(answer).all()
    assert nll(answer, targets) <= nll(TemperatureScaling().fit(logits, targets)(logits), targets) + 1e-6
