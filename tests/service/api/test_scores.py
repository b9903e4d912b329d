"""One score over HTTP: fitted within the request, served under its name, taken over only by a promise as strong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fedlas.scores.calibration import calibrate_table
from fedlas.scores.curve import sigmoid
from fedlas.scores.table import ScoreTable
from tests.helpers.api import Api, Json
from tests.helpers.problems import problem

PATH = "/v1/calibrators"


def judge(count: int = 600, *, worse: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores from 1 to 10 and whether the rows are right."""
    rng = np.random.default_rng(seed)
    logits = 3 - worse + 3 * rng.normal(size=count)
    return np.round(10 * sigmoid(logits / 2), 1), (rng.random(count) < sigmoid(logits)).astype(np.int64)


def csv(scores: np.ndarray, right: np.ndarray, name: str = "score") -> bytes:
    lines = (f"{score},{label}\n" for score, label in zip(scores, right, strict=True))
    return f"{name},label\n{''.join(lines)}".encode()


def fit(working: Api, content: bytes, **options: Any) -> Json:
    query = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    return working.post(PATH, content=content, params=query)


def test_a_csv_becomes_a_promise(working: Api) -> None:
    """The record has the library's promise, and what is served gives the library's answers to old and new rows."""
    scores, right = judge()
    record = fit(working, csv(scores, right), publish_as="judge", valid_for="judge-3")
    ours = calibrate_table(ScoreTable({"score": scores}, right, ("0", "1")))
    assert record["promise"] == ours.report.promise.model_dump(mode="json")
    assert (record["verdict"], record["input"], record["version"]) == ("post_hoc", "score", 1)
    asked = [9.5, record["promise"]["threshold"], record["promise"]["threshold"] - 0.1, None, 95]  # of another scale
    expected = sigmoid(ours.model.log_odds(np.array([[np.nan if s is None else s] for s in asked])))
    for called in (record["id"], "judge"):
        answer = working.post(f"{PATH}/{called}/predict", json={"scores": asked})
        rows = answer["predictions"]
        assert [row["probability"] for row in rows] == pytest.approx(expected, abs=1e-6)
        assert [row["accept"] for row in rows] == [True, True, False, False, False]
        assert all(row["low"] <= row["probability"] <= row["high"] and not row["stale"] for row in rows)
        assert answer["promise"] == record["promise"]
    model = working.client.get(f"/v1/models/{record['model_id']}").json()
    assert (model["promise"], model["calibrated"]) == (record["promise"], True)
    tensor = {"name": "scores", "shape": [1, 1], "datatype": "FP64", "data": [9.5]}
    (probs, *_) = working.post("/v2/models/judge/infer", json={"inputs": [tensor]})["outputs"]
    assert probs["data"][1] == pytest.approx(expected[0], abs=1e-6)


def test_slices_are_accepted_by_their_own_thresholds(working: Api) -> None:
    """A row that names its slice is accepted by that slice's threshold; a slice without one accepts nothing."""
    scores, right = judge(1200)
    kinds = np.array(["good"] * 800 + ["bad"] * 400)
    right[800:] = np.arange(400) % 2
    lines = "".join(f"{s},{y},{kind}\n" for s, y, kind in zip(scores, right, kinds, strict=True))
    record = fit(working, f"score,label,kind\n{lines}".encode(), slice="kind")
    thresholds = {one["value"]: one["threshold"] for one in record["promise"]["per_slice"]}
    assert (thresholds["bad"], thresholds["good"] < 9) == (None, True)
    asked = {"scores": [10, 10, 10], "slices": ["good", "bad", "unknown"]}
    rows = working.post(f"{PATH}/{record['id']}/predict", json=asked)["predictions"]
    assert [row["accept"] for row in rows] == [True, False, False]
    few = working.client.post(f"{PATH}/{record['id']}/predict", json={"scores": [1, 2], "slices": ["good"]})
    assert "1 slices for 2 rows" in problem(few, 422, "invalid_request")["detail"]


def test_another_judge_is_stale(working: Api) -> None:
    """Rows of another version than the promise is valid for are stale and never accepted."""
    record = fit(working, csv(*judge()), valid_for="judge-3")
    for version, stale in (("judge-4", True), ("judge-3", False)):
        answer = working.post(f"{PATH}/{record['id']}/predict", json={"scores": [10], "valid_for": version})
        assert [(row["stale"], row["accept"]) for row in answer["predictions"]] == [(stale, not stale)]


@pytest.mark.slow
def test_a_name_is_taken_over_only_by_a_promise_as_strong(working: Api) -> None:
    """A judge that holds no promise, or a weaker one, leaves the name as it was and says why; a strong one takes it."""
    first = fit(working, csv(*judge()), publish_as="judge")
    weak = fit(working, csv(*judge(worse=4, seed=1)), publish_as="judge")
    assert (weak["version"], weak["promise"]["threshold"]) == (None, None)
    assert "promises something, and this one does not" in weak["not_published"]
    loose = fit(working, csv(*judge(seed=2)), publish_as="judge", promise={"max_error": 0.2})
    assert "promises more" in loose["not_published"]
    name = working.client.get("/v1/names/judge").json()
    assert name["versions"] == {"1": first["model_id"]}
    strong = fit(working, csv(*judge(seed=3)), publish_as="judge", valid_for="judge-3")
    assert (strong["version"], strong["not_published"]) == (2, None)
    unsaid = fit(working, csv(*judge(seed=4)), publish_as="judge")
    assert "is valid for 'judge-3'" in unsaid["not_published"]


@pytest.mark.slow
def test_the_same_question_is_no_second_look(working: Api) -> None:
    """Rows that are asked for one promise again have the same answer; another promise of them is paid for."""
    content = csv(*judge())
    first, again = fit(working, content), fit(working, content, publish_as="judge")
    assert (again["promise"], again["report"]["looks"]) == (first["promise"], 0)
    assert fit(working, content, promise={"precision": 0.95})["promise"] == first["promise"]
    other = fit(working, content, promise={"max_error": 0.1})
    assert other["report"]["looks"] == 1
    for error in (0.02, 0.01, 0.03, 0.06):  # looks that leave little to later ones
        last = fit(working, content, promise={"max_error": error})
    assert last["promise"]["accepted_rows"] >= first["promise"]["accepted_rows"]
    assert last["promise"]["max_error"] <= 0.06


def test_signals_are_asked_for_by_name(working: Api) -> None:
    """Several signals are sent as objects, of which one may be missing; others are refused with what is needed."""
    scores, right = judge(900)
    noise = np.random.default_rng(5).normal(size=900)
    lines = "".join(f"{a},{b},{y}\n" for a, b, y in zip(scores, noise, right, strict=True))
    record = fit(working, f"signal_a,signal_b,label\n{lines}".encode())
    asked = {"scores": [{"signal_a": 9, "signal_b": None}, {"signal_a": 1}]}
    high, low = working.post(f"{PATH}/{record['id']}/predict", json=asked)["predictions"]
    assert high["probability"] > 0.8 > low["probability"]
    for bad in ({"scores": [3]}, {"scores": [{"other": 3}]}):
        told = problem(working.client.post(f"{PATH}/{record['id']}/predict", json=bad), 422, "invalid_request")
        assert "signal_a, signal_b" in told["detail"]


@pytest.mark.parametrize(
    ("content", "options", "code", "said"),
    [
        (b"score,label\n1,0\n2,1\n", {}, "too_few_rows", "2 rows"),
        (csv(*judge(20)), {"promise": {"max_error": 0.1, "recall": 0.5}}, "invalid_request", "one of max_error"),
        (csv(*judge(20)), {"promise": {"max_error": 2}}, "invalid_request", "less than or equal to 0.9999"),
        (csv(*judge(20)), {"publish_as": "cal_x"}, "invalid_request", "must not look like an id"),
    ],
)
def test_refusals(working: Api, content: bytes, options: Json, code: str, said: str) -> None:
    """Bad files and options are refused with what was found, and leave no record behind."""
    query = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    assert said in problem(working.client.post(PATH, content=content, params=query), 422, code)["detail"]
    assert working.client.get(PATH).json()["data"] == []


def test_a_model_of_rows_takes_no_scores(served: tuple[Api, Json]) -> None:
    """A classifier that is asked for scores is refused with the path that it answers at."""
    api, model = served
    answer = api.client.post(f"{PATH}/{model['id']}/predict", json={"scores": [1]})
    assert f"/v1/models/{model['id']}/predict" in problem(answer, 422, "not_a_score")["detail"]


def test_deleting(working: Api) -> None:
    """A calibrator goes with its model, unless a name answers by it; then it is said which."""
    record = fit(working, csv(*judge()), publish_as="judge")
    assert "'judge'" in problem(working.client.delete(f"{PATH}/{record['id']}"), 409, "in_use")["detail"]
    assert working.client.delete("/v1/names/judge").status_code == 204
    told = problem(working.client.delete(f"/v1/models/{record['model_id']}"), 409, "in_use")["detail"]
    assert f"DELETE {PATH}/{record['id']}" in told
    assert working.client.delete(f"{PATH}/{record['id']}").status_code == 204
    assert working.client.get(f"/v1/models/{record['model_id']}").status_code == 404
    gone = working.client.post(f"{PATH}/{record['id']}/predict", json={"scores": [1]})
    assert repr(record["id"]) in problem(gone, 404, "unknown_calibrator")["detail"]
