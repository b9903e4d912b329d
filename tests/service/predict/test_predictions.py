"""Outputs become answers with the right values."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas.contract.options import AnswerOptions
from fedlas.guarantees import Guarantees
from service.registry.errors import InvalidRequest
from tests.helpers.oip_models import softmax
from tests.helpers.predictions import answer, policy

LOGITS = np.array([[2.0, 0.0, -1.0], [0.0, 0.5, 0.4]], dtype=np.float32)


def outputs(logits: np.ndarray = LOGITS, temperature: float = 2.0) -> dict[str, np.ndarray]:
    """The outputs of a calibrated file."""
    probs = softmax(logits / temperature).astype(np.float32)
    return {"logits": logits, "probabilities": probs, "confidence": probs.max(1)}


def test_values_of_an_answer() -> None:
    """Label, index and confidence come from the calibrated side, the uncalibrated confidence from the logits."""
    first, second = answer(outputs(), {"class_names": ["a", "b", "c"], "task": "multiclass"}, AnswerOptions())
    assert (first["label"], first["index"], second["label"], second["index"]) == ("a", 0, "b", 1)
    assert first["confidence"] == pytest.approx(softmax(LOGITS / 2)[0, 0], abs=1e-6)
    assert first["uncalibrated_confidence"] == pytest.approx(softmax(LOGITS)[0, 0], abs=1e-12)
    assert (first["abstain"], second["abstain"]) == (False, False)
    assert not {"probability", "top_k"} & set(first)


def test_abstaining_and_ranking() -> None:
    """An answer abstains strictly below the threshold; `top_k` is sorted, and never longer than the classes."""
    given = outputs()
    threshold = float(given["confidence"][0])
    answers = answer(given, {"class_names": ["a", "b", "c"]}, AnswerOptions(top_k=5, abstain_below=threshold))
    assert [item["abstain"] for item in answers] == [False, True]
    assert [item["label"] for item in answers[1]["top_k"]] == ["b", "c", "a"]
    assert sum(item["confidence"] for item in answers[1]["top_k"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("positive", "column"), [(None, 1), ("bad", 1), ("good", 0)])
def test_probability_of_the_positive_class(positive: str | None, column: int) -> None:
    """A binary model answers the probability of its positive class, by default the second one."""
    given = outputs(LOGITS[:, :2])
    profile = {"class_names": ["good", "bad"], "task": "binary", "positive_class": positive}
    found = [item["probability"] for item in answer(given, profile, AnswerOptions())]
    assert found == given["probabilities"][:, column].tolist()


@pytest.mark.parametrize(("positive", "expected"), [(None, ["good", "bad"]), ("good", ["good", "good"])])
def test_deciding_by_a_threshold(positive: str | None, expected: list[str]) -> None:
    """The positive class is decided for from the threshold on, whatever the label is."""
    given = outputs(np.array([[2.0, 0.0], [0.0, 0.5]], dtype=np.float32))
    profile = {"class_names": ["good", "bad"], "task": "binary", "positive_class": positive}
    at = float(given["probabilities"][:, 0 if positive else 1].min() if positive else given["probabilities"][1, 1])
    found = answer(given, profile, AnswerOptions(decision={"threshold": at}))
    assert [item["decision"] for item in found] == expected
    assert [item["label"] for item in found] == ["good", "bad"]


def test_deciding_by_costs() -> None:
    """The class with the lowest expected cost is decided for: missing an x costs ten times what a false alarm does."""
    given = outputs(np.log(np.array([[0.2, 0.8], [0.05, 0.95]])).astype(np.float32), temperature=1.0)
    found = answer(given, {"class_names": ["x", "y"]}, AnswerOptions(decision={"costs": [[0, 1], [10, 0]]}))
    assert [item["decision"] for item in found] == ["x", "y"], "10 * 0.2 > 0.8, 10 * 0.05 < 0.95"


def test_promises_of_an_answer() -> None:
    """Threshold and sets are those of the guarantees, typicality is passed on, and NaN counts as untypical."""
    rng = np.random.default_rng(0)
    probs = outputs(rng.normal(size=(400, 3)).astype(np.float32) * 3)["probabilities"]
    guarantees = Guarantees.fit(probs, (probs.cumsum(1) > rng.random((400, 1))).argmax(1), class_names=list("abc"))
    profile = {"class_names": list("abc"), "guarantees": guarantees.as_dict(), "typicality": {"score": "norm"}}
    given = {**outputs(), "typicality": np.array([0.25, np.nan], dtype=np.float32)}
    assert policy(profile, AnswerOptions(coverage=0.6)).taken_outputs == ("typicality", "probabilities")
    assert policy({"class_names": []}, AnswerOptions()).taken_outputs == ()
    found = answer(given, profile, AnswerOptions(max_error=0.4, coverage={"class": 0.6}))
    threshold = guarantees.threshold_for(0.4)
    sets = guarantees.prediction_sets(given["probabilities"], {"class": 0.6})
    for item, confidence, inside in zip(found, given["confidence"], sets, strict=True):
        assert item["abstain"] == (confidence < threshold)
        assert set(item["prediction_set"]) == {name for name, member in zip("abc", inside, strict=True) if member}
    assert [item["typicality"] for item in found] == [0.25, 0.0]


def test_huge_logits_do_not_overflow() -> None:
    """Logits far beyond exp's range have a confidence of one, without a warning."""
    given = outputs()
    given["logits"] = np.array([[1e4, 0.0, 0.0], [0.0, 0.0, 5e4]], dtype=np.float32)
    found = answer(given, {"class_names": ["a", "b", "c"]}, AnswerOptions())
    assert [item["uncalibrated_confidence"] for item in found] == [1.0, 1.0]


@pytest.mark.parametrize("name", ["logits", "confidence"])
def test_no_number_is_no_answer(name: str) -> None:
    """Where the model computes NaN or infinity the row is named, since JSON has no word for it."""
    given = outputs()
    given[name][1] = np.nan
    with pytest.raises(InvalidRequest, match="row 1") as caught:
        answer(given, {"class_names": ["a", "b", "c"]}, AnswerOptions())
    assert caught.value.code == "non_finite_output"


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_best_classes_of_one_row_are_those_of_many(k: int) -> None:
    """One row alone is ranked as it is among others, equal probabilities included: of these the first comes first."""
    probs = np.array([[0.2, 0.3, 0.2, 0.3, 0.0]] * 2, dtype=np.float32)
    given = {"logits": np.log(probs + 0.01), "probabilities": probs, "confidence": probs.max(1)}
    profile = {"class_names": list("abcde")}
    one = answer({name: array[:1] for name, array in given.items()}, profile, AnswerOptions(top_k=k))
    assert one == answer(given, profile, AnswerOptions(top_k=k))[:1]
    assert [item["label"] for item in one[0]["top_k"]] == list("bdace")[:k]
