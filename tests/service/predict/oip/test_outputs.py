"""Outputs of the protocol: the values that `/v1` tells, under the protocol's names, types and shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedlas.contract.options import AnswerOptions
from fedlas.guarantees import Guarantees
from service.predict.engine.profile import ServingProfile, completed
from service.predict.formats.answers import json_rows, tensors
from service.predict.formats.oip_requests import (
    DEFAULTS,
    InferenceRequest,
    RequestedOutput,
    chosen,
    options,
    taken_outputs,
)
from service.predict.formats.oip_tensors import packed
from service.predict.formats.predictions import DecisionPolicy, Predictions
from service.registry.errors import InvalidRequest
from tests.helpers.oip_models import LOGITS, computed, profile_of

SHAPES = {
    "probabilities": ("float32", (3, 3)), "logits": ("float32", (3, 3)), "features": ("float32", (3, 4)),
    "confidence": ("float32", (3,)), "typicality": ("float32", (3,)), "uncalibrated_confidence": ("float64", (3,)),
    "index": ("int64", (3,)), "label": ("object", (3,)), "abstain": ("bool", (3,)), "threshold": ("float64", (1,)),
    "prediction_set": ("bool", (3, 3)), "top_k_index": ("int64", (3, 2)), "top_k_label": ("object", (3, 2)),
    "top_k_confidence": ("float32", (3, 2)),
}  # fmt: skip


def asked(*wanted: str | RequestedOutput, binary: bool = False, **parameters: Any) -> InferenceRequest:
    """A request for these outputs; none means the defaults."""
    outputs = tuple(item if isinstance(item, RequestedOutput) else RequestedOutput(item) for item in wanted)
    return InferenceRequest(None, {}, outputs or None, binary, parameters)


def answered(request: InferenceRequest, profile: ServingProfile, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The service's answer to a request, but for the model."""
    requested = chosen(request, profile)
    return tensors(Predictions(given, DecisionPolicy.of(profile, options(request.parameters))), requested)


def answer(outputs: dict[str, np.ndarray], profile: ServingProfile, options: AnswerOptions) -> list[dict[str, Any]]:
    """The answers of `/v1` to equal rows."""
    return json_rows(Predictions(outputs, DecisionPolicy.of(profile, options)))


def test_defaults() -> None:
    """Probabilities, confidence and label go back by default, in the form that the request names."""
    request = asked(binary=True)
    assert chosen(request, profile_of()) == tuple(RequestedOutput(name, True) for name in DEFAULTS)
    given = computed()
    found = answered(request, profile_of(), given)
    assert found["probabilities"] is given["probabilities"]
    assert found["confidence"] is given["confidence"]
    labels = ["ant", "bee: honey", "bee: honey"]
    assert packed(found["label"]) == packed(np.array(labels, dtype=object))
    assert answered(asked(), profile_of(), given)["label"].tolist() == labels


def test_parameters_add_what_they_ask_for(guarantees: Guarantees) -> None:
    """Sets, thresholds or a ranking asked for by a parameter come without being named."""
    profile = profile_of(guarantees=guarantees.as_dict())
    names = {
        "coverage": (0.9, ["prediction_set"]),
        "abstain_below": (0.5, ["abstain", "threshold"]),
        "max_error": (0.5, ["abstain", "threshold"]),
        "top_k": (2, ["top_k_index", "top_k_label", "top_k_confidence"]),
    }
    for parameter, (value, added) in names.items():
        assert [output.name for output in chosen(asked(**{parameter: value}), profile)] == [*DEFAULTS, *added]
    binary = profile_of(class_names=["no", "yes"], task="binary")
    assert [output.name for output in chosen(asked(decision_threshold=0.2), binary)] == [*DEFAULTS, "decision"]


@pytest.mark.parametrize("complete", [False, True])
def test_every_output_agrees_with_v1(guarantees: Guarantees, complete: bool) -> None:
    """Each output has its type and shape, and the values of the same field of a prediction of `/v1`."""
    profile = profile_of(guarantees=guarantees.as_dict())
    wishes = {"top_k": 2, "abstain_below": 0.3, "max_error": 0.4, "coverage": 0.6}
    given = completed(computed()) if complete else computed()
    found = answered(asked(*SHAPES, **wishes), profile, given)
    assert {name: (str(array.dtype), array.shape) for name, array in found.items()} == SHAPES
    expected = answer(computed(), profile, AnswerOptions(**wishes))
    for name in ("label", "index", "confidence", "uncalibrated_confidence", "abstain", "typicality"):
        assert found[name].tolist() == [prediction[name] for prediction in expected]
    names = profile.class_names
    for row, prediction in enumerate(expected):
        ranked = zip(found["top_k_label"][row], found["top_k_index"][row], found["top_k_confidence"][row], strict=True)
        assert prediction["top_k"] == [{"label": text, "index": k, "confidence": p} for text, k, p in ranked]
        inside = {name for name, member in zip(names, found["prediction_set"][row], strict=True) if member}
        assert set(prediction["prediction_set"]) == inside
    threshold = guarantees.threshold_for(0.4)
    assert found["threshold"].tolist() == [max(0.3, threshold)]
    np.testing.assert_array_equal(found["abstain"], found["confidence"] < found["threshold"])


@pytest.mark.parametrize(("positive", "column"), [(None, 1), ("yes", 1), ("no", 0)])
def test_binary_models(positive: str | None, column: int) -> None:
    """Binary models add the probability of their positive class, and decide by a threshold on it."""
    profile = profile_of(class_names=["no", "yes"], task="binary", positive_class=positive)
    given = computed(LOGITS[:, :2].copy())
    found = answered(asked("probability", "decision", decision_threshold=0.4), profile, given)
    np.testing.assert_array_equal(found["probability"], given["probabilities"][:, column])
    expected = answer(given, profile, AnswerOptions(decision={"threshold": 0.4}))
    assert found["decision"].tolist() == [prediction["decision"] for prediction in expected]
    assert found["decision"].dtype == object


def test_classification() -> None:
    """The k largest values, each as value:index:label; the value is the same float32 again; k may be too large."""
    given = computed()
    request = asked(RequestedOutput("probabilities", classes=2), RequestedOutput("logits", True, classes=9))
    found = answered(request, profile_of(), given)
    assert {name: array.shape for name, array in found.items()} == {"probabilities": (3, 2), "logits": (3, 3)}
    assert found["logits"].tolist()[0] == ["2.0:0:ant", "0.0:1:bee: honey", "-1.0:2:Käfer"]
    for row, texts in enumerate(found["probabilities"]):
        for text in texts:
            value, index, label = text.split(":", 2)
            assert np.float32(value) == given["probabilities"][row, int(index)]
            assert label == profile_of().class_names[int(index)]
    assert found["logits"].tolist()[2][:2] == ["1.0:1:bee: honey", "1.0:2:Käfer"], "of equal ones the first"


def test_what_is_taken_of_the_file() -> None:
    """Outputs are read that go back, or that those are made of: a label needs no column of every class."""
    wanted = [RequestedOutput("label"), RequestedOutput("confidence")]
    assert taken_outputs(wanted) == ()
    wanted += [RequestedOutput("features"), RequestedOutput("top_k_label"), RequestedOutput("top_k_index")]
    assert taken_outputs(wanted) == ("features", "probabilities")
    everything = [RequestedOutput(name) for name in SHAPES]
    assert taken_outputs(everything) == ("probabilities", "logits", "features", "typicality")


@pytest.mark.parametrize(
    ("request_", "changes", "code", "words"),
    [
        (asked("nothing"), {}, "unknown_output", "'nothing'; this model has probabilities, confidence, label, index"),
        (asked("probability"), {}, "unknown_output", "'probability'"),
        (asked("typicality"), {"typicality": None}, "unknown_output", "'typicality'"),
        (asked("decision", decision_threshold=0.5), {}, "unknown_output", "'decision'"),
        (asked("prediction_set"), {}, "missing_parameter", "needs the parameter 'coverage'"),
        (asked("threshold"), {}, "missing_parameter", "'abstain_below' or 'max_error'"),
        (asked("top_k_label"), {}, "missing_parameter", "'top_k'"),
        (asked("decision"), {"task": "binary", "class_names": ["a", "b"]}, "missing_parameter", "decision_threshold"),
        (
            asked(RequestedOutput("label", classes=2)),
            {},
            "not_classifiable",
            "probabilities and logits, not for 'label'",
        ),
        (asked(coverage=0.9), {}, "no_guarantee_rows", "nothing can be promised"),
        (asked(max_error=0.1), {}, "no_guarantee_rows", "nothing can be promised"),
        (asked(decision_threshold=0.5), {}, "invalid_request", "binary models"),
    ],
)
def test_what_a_model_does_not_have(request_: InferenceRequest, changes: dict[str, Any], code: str, words: str) -> None:
    """Outputs that do not exist, lack their parameter or cannot be promised are refused with what there is."""
    with pytest.raises(InvalidRequest) as caught:
        answered(request_, profile_of(**changes), computed())
    assert caught.value.code == code
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        *(({"top_k": value}, "from 1 to 1000") for value in (0, 1001)),
        *(({"top_k": value}, "whole number") for value in (1.5, True, "3")),
        ({"abstain_below": 1.1}, "from 0 to 1"),
        ({"abstain_below": True}, "from 0 to 1"),
        ({"max_error": -0.1}, "from 0 to 1"),
        ({"coverage": "0.9"}, "from 0 to 1"),
        ({"coverage": float("nan")}, "from 0 to 1"),
        ({"decision_threshold": 10**400}, "from 0 to 1"),
        ({"abstain_bellow": 0.5}, "'abstain_below' may be meant"),
        ({"topk": 3}, "'top_k' may be meant"),
        ({"threshold": 0.5}, "'decision_threshold' may be meant"),
        ({"decision": 0.5}, "'decision_threshold' may be meant"),
    ],
)
def test_bad_parameters(parameters: dict[str, Any], words: str) -> None:
    """Values that are none, and names that look like ours, are refused with what is needed."""
    with pytest.raises(InvalidRequest) as caught:
        options(parameters)
    assert caught.value.field == "parameters"
    assert repr(next(iter(parameters))) in caught.value.message
    assert words in caught.value.message


def test_parameters_of_others_are_passed_over() -> None:
    """Parameters that Triton, MLServer and KServe clients send beside ours change nothing."""
    parameters = {
        "timeout": 100, "priority": 1, "sequence_id": 7, "sequence_start": True, "sequence_end": False,
        "binary_data_output": True, "content_type": "np", "headers": "x", "triton_enable_empty_final_response": True,
    }  # fmt: skip
    assert options(parameters) == AnswerOptions()
    assert options({**parameters, "coverage": 1, "top_k": 2}) == AnswerOptions(top_k=2, coverage=1.0)


@pytest.mark.parametrize("name", ["logits", "confidence", "probabilities", "features"])
def test_no_number_is_no_answer(name: str) -> None:
    """Where the model computes NaN or infinity for what goes back, the row is named."""
    given = computed()
    given[name][1] = np.inf
    request = asked("probabilities", "features")
    with pytest.raises(InvalidRequest, match="row 1") as caught:
        answered(request, profile_of(), given)
    assert caught.value.code == "non_finite_output"


def test_untypical_beyond_measure() -> None:
    """A distance that overflows is as far as can be."""
    given = computed()
    given["typicality"][1] = np.nan
    assert answered(asked("typicality"), profile_of(), given)["typicality"].tolist() == [0.25, 0.0, 1.0]
