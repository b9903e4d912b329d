"""Answers: how large one can become is known before the model runs, and never less than what it then is."""

from __future__ import annotations

import asyncio

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlas.contract.options import AnswerOptions
from service.predict.app import ServingApp
from service.predict.engine.profile import LabelSizes
from service.predict.engine.scheduler import Scheduler
from service.predict.formats.answers import (
    RowSize,
    json_rows,
    of_npy,
    of_predictions,
    of_tensors,
    tensors,
    write_json,
    write_npy,
)
from service.predict.formats.oip_requests import RequestedOutput
from service.predict.formats.oip_responses import encode
from service.predict.formats.predictions import Predictions
from service.predict.messages import Request
from service.registry.errors import Overloaded, TooLarge
from tests.helpers.api import Api
from tests.helpers.hostile_bodies import PAIR, Json, ready_model
from tests.helpers.predictions import policy

WIDE: Json = {**PAIR, "features": {"layer": "x", "dim": 500_000}}
LONG: Json = {**PAIR, "class_names": ["a" * 40_000, "ä\x01" * 20_000]}
INDEXED = st.sampled_from(
    ["probabilities", "logits", "features", "confidence", "label", "index", "uncalibrated_confidence", "abstain",
     "top_k_index", "top_k_label", "top_k_confidence", "typicality"]
)  # fmt: skip


def outputs(rows: int, classes: int, seed: int) -> dict[str, np.ndarray]:
    """The outputs of a model; some numbers have an exponent and all digits."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(rows, classes)) * 10.0 ** rng.integers(-30, 2, (rows, classes))).astype("f4")
    probs = rng.dirichlet(np.ones(classes) / 10, rows).astype("f4")
    return {
        "logits": logits, "probabilities": probs, "confidence": probs.max(1),
        "features": -logits[:, :1] * np.ones((1, 7), "f4"), "typicality": probs[:, 0],
    }  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(
    names=st.lists(st.text(max_size=30), min_size=2, max_size=12, unique=True),
    rows=st.integers(1, 5),
    seed=st.integers(0, 100),
    top_k=st.none() | st.integers(1, 20),
    probabilities=st.booleans(),
    wanted=st.lists(
        st.builds(RequestedOutput, INDEXED, st.booleans())
        | st.builds(RequestedOutput, st.sampled_from(["probabilities", "logits"]), st.booleans(), st.integers(1, 20)),
        min_size=1, max_size=4, unique_by=lambda output: output.name,
    ),
)  # fmt: skip
def test_no_answer_is_larger(
    names: list[str], rows: int, seed: int, top_k: int | None, probabilities: bool, wanted: list[RequestedOutput]
) -> None:
    """No answer is larger for any names, numbers and options, as JSON and in the protocol's forms."""
    profile = {**PAIR, "class_names": names, "features": {"dim": 7}}
    options = AnswerOptions(top_k=top_k, probabilities=probabilities)
    labels, found = LabelSizes.of(names, 7), outputs(rows, len(names), seed)
    predictions = Predictions(found, policy(profile, options))
    bound = of_predictions(labels, options)
    assert len(orjson.dumps(json_rows(predictions))) <= 2 + rows * bound.json
    around = len(b'{"model":{},"predictions":}')
    assert len(write_json(predictions, b"{}")) <= around + 2 + rows * bound.json + bound.once
    assert len(write_npy(predictions)) <= 128 + rows * of_npy(labels).binary
    if top_k is None:
        wanted = [output for output in wanted if not output.name.startswith("top_k")] or [RequestedOutput("label")]
    body, header = encode(tensors(predictions, wanted), wanted, name="m", version="1", id=None)
    size = of_tensors(labels, options, wanted)
    assert len(body) - (header or len(body)) <= rows * size.binary
    assert (header or len(body)) <= 200 + 150 * len(wanted) + rows * size.json
    everything = of_predictions(labels, AnswerOptions(top_k=1000, coverage=0.9, decision={}, probabilities=True))
    for one in (size, everything, of_tensors(labels, options, wanted)):
        assert max(4 * (one.json + one.once) + one.binary, one.total + one.once) <= labels.most


def test_prediction_sets_and_decisions() -> None:
    """Prediction sets and decisions may name every class, and the longest."""
    names = ["short", "ü" * 50, "c"]
    labels = LabelSizes.of(names, 0)
    plain = of_predictions(labels, AnswerOptions()).json
    sets = of_predictions(labels, AnswerOptions(coverage=0.9)).json - plain
    decision = of_predictions(labels, AnswerOptions(decision={"threshold": 0.5})).json - plain
    assert sets >= len(orjson.dumps({"prediction_set": names}))
    assert decision >= len(orjson.dumps({"decision": names[1]}))


@pytest.mark.parametrize(
    "names", [["a", "b"], ["x" * 900, "y"], [str(k) for k in range(2000)]], ids=["2", "long", "many"]
)
@pytest.mark.parametrize("width", [0, 1, 5000])
def test_what_needs_no_closer_look(names: list[str], width: int) -> None:
    """All outputs at once, in their largest form, weigh and hold less than `most`."""
    labels = LabelSizes.of(names, width)
    decided = {"coverage": 0.9, "decision": {"threshold": 0.5}, "abstain_below": 0.5}
    options = AnswerOptions(top_k=1000, probabilities=True, **decided)
    plain = [
        *("features", "confidence", "label", "index", "uncalibrated_confidence", "abstain", "typicality"),
        *("probability", "threshold", "prediction_set", "top_k_index", "top_k_label", "top_k_confidence", "decision"),
    ]
    wide = [RequestedOutput(name, classes=len(names)) for name in ("probabilities", "logits")]
    everything = [*map(RequestedOutput, plain), *wide]
    for size in (of_predictions(labels, options), of_tensors(labels, options, everything)):
        assert max(4 * (size.json + size.once) + size.binary, size.total + size.once) <= labels.most


def test_the_reachable_number_of_rows_is_told() -> None:
    """The reported number of rows is allowed, and one more is not; where not even one is, the answer says so."""
    size = RowSize(json=1000, binary=50, held=10_000)
    with pytest.raises(TooLarge, match="ask for at most 24 rows at once") as caught:
        size.check(25, 100_000)
    assert caught.value.code == "answer_too_large"
    size.check(24, 100_000)
    beside = size._replace(once=5_000)
    beside.check(19, 100_000)
    with pytest.raises(TooLarge, match="ask for at most 19 rows at once"):
        beside.check(20, 100_000)
    with pytest.raises(TooLarge, match="less of each row"):
        size.check(1, 1000)


def features(rows: int, *, binary: bool) -> Json:
    """A small request with a large answer."""
    tensor = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "data": [0] * (2 * rows)}
    return {"inputs": [tensor], "outputs": [{"name": "features", "parameters": {"binary_data": binary}}]}


@pytest.mark.parametrize("binary", [True, False])
def test_wide_features(api: Api, monkeypatch: pytest.MonkeyPatch, binary: bool) -> None:
    """1,200 rows of half a million features were 2.4 GB for 14.5 KB: 413, before anything is run."""
    path = f"/v2/models/{ready_model(api, profile=WIDE)}/infer"
    assert api.client.post(path, json=features(1, binary=binary)).status_code == 200
    monkeypatch.setattr(Scheduler, "submit", pytest.fail)
    answer = api.client.post(path, json=features(1200, binary=binary))
    assert answer.status_code == 413
    assert f"at most {33 if binary else 2} rows" in answer.json()["error"]


@pytest.mark.parametrize("options", [{}, {"top_k": 2}])
def test_long_names(api: Api, options: Json) -> None:
    """Names are repeated in every row; the number of rows that the answer names is accepted."""
    path = f"/v1/models/{ready_model(api, profile=LONG)}/predict"
    answer = api.client.post(path, json={"inputs": [[1, 2]] * 1000, **options})
    assert (answer.status_code, answer.json()["code"]) == (413, "answer_too_large")
    (most,) = [int(word) for word in answer.json()["detail"].partition("at most ")[2].split()[:1]]
    answer = api.client.post(path, json={"inputs": [[1, 2]] * most, **options})
    assert answer.status_code == 200
    assert len(answer.content) < 16 * 1024**2
    assert api.client.post(path, json={"inputs": [[1, 2]] * (most + 1), **options}).status_code == 413


def test_answers_are_held_like_bodies(api: Api) -> None:
    """While others hold what there is, 429; alone it is never refused; nothing is held when all are answered."""
    app = api.client.app
    assert isinstance(app, ServingApp)
    most, held = app.services.settings.max_inflight_bytes, app.services.memory
    size = RowSize(json=10, binary=0, held=most // 40)

    async def ask() -> None:
        request = Request.read({"type": "http", "headers": []}, asyncio.Event().wait)  # type: ignore[arg-type]
        first, second, alone = (app.call(request, "test", "m") for _ in range(3))
        for _ in range(4):
            first.hold(first.held_bytes + most // 4)
        with pytest.raises(Overloaded):
            second.expect_answer(10, size)
        second.release()
        first.release()
        alone.expect_answer(10, size)
        assert held.held_bytes == 10 * size.total
        alone.hold_answer(100)
        assert held.held_bytes == 100
        alone.release()
        assert held.held_bytes == 0

    asyncio.run(ask())
