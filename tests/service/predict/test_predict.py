"""Predict over HTTP: each bad request of the contract's table has its status, and good ones their values."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.deployment import ClassPriors, Deployment, class_shares
from fedlas.export.graph import write_graph
from fedlas.guarantees import Guarantees
from fedlas.guarantees.typicality import Typicality
from fedlas.importers import load_onnx
from tests.corpus.images import image, photo, rotated_jpeg
from tests.helpers.api import Api, Json, open_api
from tests.helpers.problems import fields, problem
from tests.helpers.uploads import Uploads, digits

ROW = [0.5] * 64
EVEN = {str(k): 0.1 for k in range(10)}
#: A world in which nearly all digits are eights.
RARE = {**{str(k): 0.001 for k in range(10)}, "8": 0.991}


@pytest.fixture(scope="module", params=["in one process", "behind a wall"])
def served(request: pytest.FixtureRequest, served: tuple[Api, Json]) -> Any:
    """The API with the digits model, in both forms."""
    return served if request.param == "in one process" else request.getfixturevalue("served_behind_a_wall")


def predict(served: tuple[Api, Json], content: bytes | Json) -> Any:
    """POST a body, parsed or not."""
    api, model = served
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    path, headers = f"/v1/models/{model['id']}/predict", {"Content-Type": "application/json"}
    return api.client.post(path, content=raw, headers=headers)


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ({"inputs": [[0.5] * 63]}, "wrong_shape", "[64]"),
        ({"inputs": [ROW, [*ROW[:63], True]]}, "wrong_dtype", "true/false values in row 1"),
        ({"inputs": [{"hour": 3}]}, "no_column_names", "`columns`"),
        ({"inputs": [[*ROW[:63], float("nan")]]}, "non_finite", "row 0"),
        ({"inputs": [[3e38] * 64]}, "non_finite_output", "row 0"),
        ({"inputs": []}, "empty_inputs", "at least one"),
        ({"inputs": {"y": [ROW]}}, "wrong_inputs", "[64]"),
        ({}, "invalid_request", "inputs"),
        ([ROW], "invalid_request", "inputs"),
        (b"", "invalid_json", "JSON"),
        (b"\xff\xfe", "invalid_json", "JSON"),
        (image(photo()), "invalid_json", "send this file with 'Content-Type: image/png'"),
        (b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", "JSON"),
    ],
)
def test_bad_inputs(served: tuple[Api, Json], content: Any, code: str, words: str) -> None:
    """422, with a code, the field, and what is needed."""
    assert words in problem(predict(served, content), 422, code)["detail"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("top_k", value) for value in (0, 1.5, "3", True)),
        *(("abstain_below", value) for value in (1.1, -0.1, "0.5", float("nan"), True)),
        *(("probabilities", 1), ("topk", 3)),
    ],
)
def test_bad_options(served: tuple[Api, Json], option: str, value: Any) -> None:
    """A bad or unknown option is 422 with its name."""
    assert fields(predict(served, {"inputs": [ROW], option: value})) == {option}


def test_all_probabilities(served: tuple[Api, Json], uploads: Uploads) -> None:
    """JSON has them in the order of `class_names` where it is asked, and is else as it was; npy is nothing but them."""
    api, model = served
    rows = digits()[0][:4]
    expected = ort.InferenceSession(uploads["digits.onnx"]).run(None, {"x": rows})[0]
    plain, asked = (
        predict(served, {"inputs": rows.tolist(), **option}).json() for option in ({}, {"probabilities": True})
    )
    found = np.array([row.pop("probabilities") for row in asked["predictions"]])
    np.testing.assert_allclose(found, softmax(expected.astype(np.float64)), atol=1e-6)
    assert asked.pop("class_names") == model["class_names"]
    assert asked == plain, "nothing else is another"
    assert found.max(1).tolist() == [row["confidence"] for row in plain["predictions"]]
    path, npy = f"/v1/models/{model['id']}/predict", {"Content-Type": "application/json", "Accept": "application/x-npy"}
    matrix = api.client.post(path, json={"inputs": rows.tolist()}, headers=npy)
    assert matrix.headers["content-type"] == "application/x-npy"
    np.testing.assert_array_equal(np.load(io.BytesIO(matrix.content)), found.astype(np.float32))
    for option, named in (({"top_k": 2}, "top_k"), ({"probabilities": False}, "probabilities")):
        refused = api.client.post(path, json={"inputs": rows.tolist(), **option}, headers=npy)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, named)
        assert "an answer in npy has the probabilities alone" in refused.json()["detail"]


def test_a_million_rows(served: tuple[Api, Json]) -> None:
    """More rows than allowed are 413, and the answer says what to do instead."""
    row = json.dumps([0] * 64, separators=(",", ":"))
    few = predict(served, f'{{"inputs":[{",".join([row] * 1001)}]}}'.encode())
    assert "/v1/batches" in problem(few, 413, "too_many_rows")["detail"]
    assert predict(served, f'{{"inputs":[{",".join([row] * 1_000_000)}]}}'.encode()).status_code == 413


def test_no_promise_without_guarantee_rows(served: tuple[Api, Json]) -> None:
    """A model for which no rows were set aside says so, for both promises."""
    for option in ({"max_error": 0.01}, {"coverage": 0.9}, {"max_error": {"class": 0.1}}):
        refused = problem(predict(served, {"inputs": [ROW], **option}), 422, "no_guarantee_rows")
        assert refused["errors"][0]["field"] == next(iter(option))


@pytest.fixture(scope="session")
def promising(tmp_path_factory: pytest.TempPathFactory, uploads: Uploads) -> Iterator[tuple[Api, Json]]:
    """The digits model with guarantees from 500 unseen rows and a served file that knows how typical rows are."""
    folder = tmp_path_factory.mktemp("promising")
    (folder / "digits.onnx").write_bytes(uploads["digits.onnx"])
    rows, targets, splits = digits()
    kept = splits == "calibration"
    classifier = load_onnx(folder / "digits.onnx")
    names = [str(k) for k in range(10)]
    with torch.no_grad():
        logits, features = (part.numpy() for part in classifier(torch.from_numpy(rows[kept])))
    calibrator = TemperatureScaling(3.0)
    guarantees = Guarantees.fit(softmax(calibrator(logits)), targets[kept], class_names=names)
    shares = class_shares(targets[kept], 10)
    deployment = Deployment(ClassPriors(shares, shares), np.arange(1.0, 11.0) / 55)
    typicality = Typicality.fit(features, targets[kept])
    written = write_graph(
        classifier,
        calibrator=calibrator,
        class_names=names,
        typicality=typicality,
        deployment=deployment,
        verify_with=[rows[:20]],
    ).save(folder / "out.onnx", guarantees=guarantees)
    with ExitStack() as stack:
        api = open_api(folder / "data", stack)
        record = api.post("/v1/models?name=digits", content=uploads["digits.onnx"])
        api.work(record["id"])
        with api.registry.artifacts.stage_file(folder / "out.onnx") as staged, api.registry.write() as unit:
            profile = dict(unit.models.get(record["id"]).profile or {})
            profile |= {"guarantees": guarantees.as_dict(), "typicality": {"score": typicality.score}}
            profile["class_names"] = names
            told = {name: json.loads(value) for name, value in deployment.properties(names).items()}
            profile |= {"class_priors": told["class_priors"], "decisions": told["decisions"]}
            unit.names.publish("priors", unit.models.get(record["id"]))
            unit.models.ready(record["id"], profile=profile, served_sha256=staged.keep())
        yield api, {**record, "file": (folder / "out.onnx").read_bytes() + written.priors_input}


def test_max_error_abstains_below_its_threshold(promising: tuple[Api, Json]) -> None:
    """`abstain` is "confidence below the threshold", which is that of the stricter option."""
    rows, targets, splits = digits()
    body = {"inputs": rows[splits == "test"].tolist()}
    found = predict(promising, {**body, "max_error": 0.2}).json()["predictions"]
    answered = [item["confidence"] for item in found if not item["abstain"]]
    refused = [item["confidence"] for item in found if item["abstain"]]
    assert max(refused) < min(answered)
    wrong = [
        item["index"] != target
        for item, target in zip(found, targets[splits == "test"], strict=True)
        if not item["abstain"]
    ]
    assert len(wrong) > 100
    assert sum(wrong) / len(wrong) <= 0.2
    share = predict(promising, {**body, "max_error": 0.2}).json()["answered_share"]
    assert share == pytest.approx(len(answered) / len(found), abs=0.06)
    middle = sorted(answered)[len(answered) // 2]
    for below, expected in ((0.0, min(answered)), (middle, middle)):
        both = predict(promising, {**body, "max_error": 0.2, "abstain_below": below}).json()
        assert min(item["confidence"] for item in both["predictions"] if not item["abstain"]) == expected
        assert both.get("answered_share") == (share if below == 0 else None)


def test_sets_typicality_and_decisions(promising: tuple[Api, Json]) -> None:
    """Sets hold the truth about as often as asked, real digits are typical and noise is not, costs decide."""
    rows, targets, splits = digits()
    test = splits == "test"
    costs = np.ones((10, 10)) - np.eye(10)
    body = {"inputs": rows[test].tolist(), "coverage": 0.9, "decision": {"costs": costs.tolist()}}
    found = predict(promising, body).json()["predictions"]
    covered = [str(target) in item["prediction_set"] for item, target in zip(found, targets[test], strict=True)]
    assert 0.85 < np.mean(covered) < 0.96
    assert all(item["prediction_set"][0] == item["label"] for item in found if item["prediction_set"])
    assert [item["decision"] for item in found] == [item["label"] for item in found]
    assert 0.4 < np.median([item["typicality"] for item in found]) < 0.6
    noise = np.random.default_rng(0).random((50, 64)) * 3
    strange = predict(promising, {"inputs": noise.tolist()}).json()["predictions"]
    assert np.median([item["typicality"] for item in strange]) < 0.01
    costs[3] = 0.0
    always = predict(promising, {**body, "decision": {"costs": costs.tolist()}}).json()["predictions"]
    assert {item["decision"] for item in always} == {"3"}, "deciding for 3 costs nothing"
    for item in predict(promising, {**body, "coverage": {"7": 0.9}}).json()["predictions"]:
        assert set(item["prediction_set"]) - {"7"} <= {item["label"]}


@pytest.mark.parametrize(
    ("option", "code", "words"),
    [
        ({"max_error": 0.0001}, "max_error_unreachable", "smallest share"),
        ({"max_error": {"class": 0.001}}, "max_error_unreachable", "for class"),
        ({"max_error": {"zebra": 0.1}}, "invalid_request", "zebra"),
        ({"max_error": {}}, "invalid_request", "none"),
        ({"max_error": 1.5}, "invalid_request", "between 0 and 1"),
        ({"max_error": -0.5}, "invalid_request", "between 0 and 1"),
        ({"max_error": "0.1"}, "invalid_request", "max_error"),
        ({"max_error": True}, "invalid_request", "max_error"),
        ({"coverage": 0.999999}, "coverage_unreachable", "0.998"),
        ({"coverage": {"class": 0.999}}, "coverage_unreachable", "for the class"),
        ({"coverage": {"zebra": 0.9}}, "invalid_request", "zebra"),
        ({"coverage": 2}, "invalid_request", "between 0 and 1"),
        ({"decision": {"threshold": 0.5}}, "invalid_request", "binary"),
        ({"decision": {"costs": [[0, 1], [1, 0]]}}, "invalid_request", "10 rows"),
        ({"decision": {"costs": [[0] * 10] * 9 + [[0] * 9]}}, "invalid_request", "10 rows"),
        ({"decision": {"costs": [[0] * 10] * 9 + [["1"] * 10]}}, "invalid_request", "no number"),
        ({"decision": {"costs": [[0] * 10] * 9 + [[-1] * 10]}}, "invalid_request", "not negative"),
        ({"decision": {"costs": [[0] * 10] * 9 + [[10**400] * 10]}}, "invalid_request", "too large"),
        ({"decision": {}}, "invalid_request", "threshold"),
        ({"decision": {"cost": 1}}, "invalid_request", "threshold"),
        ({"decision": [1]}, "invalid_request", "decision"),
        ({"decision": {"keep": "everything"}}, "invalid_request", "alarm_rate"),
        ({"class_priors": {"0": 0.5, "1": 0.5}}, "invalid_request", "'2', '3', '4', '5', '6' and 3 more missing"),
        ({"class_priors": {**EVEN, "0": 0.05, "zebra": 0.05}}, "invalid_request", "zebra"),
        ({"class_priors": {**EVEN, "0": 0.2}}, "invalid_request", "sum to 1"),
        ({"class_priors": {**EVEN, "0": 0, "1": 0.2}}, "invalid_request", "above 0"),
        ({"class_priors": {**EVEN, "0": -0.1, "1": 0.3}}, "invalid_request", "above 0"),
        ({"class_priors": {**EVEN, "0": "0.1"}}, "invalid_request", "class_priors"),
        ({"class_priors": {}}, "invalid_request", "sum to 1"),
    ],
)
def test_what_cannot_be_promised(promising: tuple[Api, Json], option: Json, code: str, words: str) -> None:
    """422 with a code, the field and what could be had instead; for a batch just the same."""
    (field,) = option
    answers = [predict(promising, {"inputs": [ROW], **option})]
    api, model = promising
    dataset = next(iter(api.client.get("/v1/datasets").json()["data"]), None)
    if dataset is None:
        dataset = api.post("/v1/datasets?format=csv", content=b"a,label\n1,0\n2,1\n")
    answers.append(api.client.post("/v1/batches", json={"model": model["id"], "dataset_id": dataset["id"], **option}))
    for answer in answers:
        refused = problem(answer, 422, code)
        assert words in answer.text
        assert refused["errors"][0]["field"].split(".")[0] == field


def at_priors(promising: tuple[Api, Json], rows: np.ndarray, priors: Json) -> np.ndarray:
    """The answers of the file alone at these priors."""
    session = ort.InferenceSession(promising[1]["file"], providers=["CPUExecutionProvider"])
    given = np.array([priors[str(k)] for k in range(10)], np.float32)
    (probs,) = session.run(["probabilities"], {"x": rows, "class_priors": given})
    return np.asarray(probs)


def test_class_priors_of_a_request_and_of_a_name(promising: tuple[Api, Json]) -> None:
    """Answers are those of the file at the same priors and say so; the request's hold over the name's."""
    api, model = promising
    rows = digits()[0][:40].astype(np.float32)
    body, named = {"inputs": rows.tolist(), "top_k": 10}, {"id": "priors"}
    for priors, options in ((EVEN, {}), (RARE, {}), (RARE, {"abstain_below": 0.9, "decision": {"keep": "alarm_rate"}})):
        answer = predict(promising, {**body, **options, "class_priors": priors}).json()
        assert answer["class_priors"] == pytest.approx(priors)
        expected = at_priors(promising, rows, priors)
        for item, probs in zip(answer["predictions"], expected, strict=True):
            assert item["index"] == probs.argmax()
            assert item["confidence"] == pytest.approx(probs.max(), abs=1e-6)
            assert {one["index"]: one["confidence"] for one in item["top_k"]} == pytest.approx(
                dict(enumerate(probs.tolist())), abs=1e-6
            )
            assert item["abstain"] == (item["confidence"] < options.get("abstain_below", 0))
    plain = predict((api, named), body).json()
    assert "class_priors" not in plain
    path, npy = f"/v1/models/{model['id']}/predict", io.BytesIO()
    np.save(npy, rows)
    query = {"top_k": 10, "class_priors": json.dumps(RARE)}
    sent = api.client.post(path, params=query, content=npy.getvalue(), headers={"Content-Type": "application/x-npy"})
    assert sent.json() == predict(promising, {**body, "class_priors": RARE}).json()
    try:
        record = api.client.patch("/v1/names/priors", json={"class_priors": RARE}).json()
        assert (record["class_priors"], record["default_version"]) == (RARE, 1)
        renamed = predict((api, named), body).json()
        assert renamed["predictions"] == predict(promising, {**body, "class_priors": RARE}).json()["predictions"]
        assert renamed["class_priors"] == pytest.approx(RARE)
        assert predict((api, named), {**body, "class_priors": EVEN}).json()["class_priors"] == pytest.approx(EVEN)
        assert "class_priors" not in predict(promising, body).json(), "the model itself stays as it is"
        tensor = {"name": "x", "shape": [40, 64], "datatype": "FP32", "data": rows.ravel().tolist()}
        asked = {"inputs": [tensor], "parameters": {"decision_keep": "alarm_rate"}}
        infer = api.client.post("/v2/models/priors/infer", json=asked).json()
        probs = np.reshape(infer["outputs"][0]["data"], (40, 10))
        np.testing.assert_allclose(probs, at_priors(promising, rows, RARE), atol=1e-6)
        assert json.loads(infer["parameters"]["class_priors"]) == pytest.approx(RARE)
        asked["parameters"] = {"class_priors": json.dumps(EVEN)}
        infer = api.client.post("/v2/models/priors/infer", json=asked).json()
        np.testing.assert_allclose(
            np.reshape(infer["outputs"][0]["data"], (40, 10)), at_priors(promising, rows, EVEN), atol=1e-6
        )
    finally:
        assert api.client.patch("/v1/names/priors", json={"class_priors": None}).json()["class_priors"] is None
    assert predict((api, named), body).json() == plain
    for bad in ({"class_priors": {"0": 1.0}}, {}, {"default_version": 2}):
        assert api.client.patch("/v1/names/priors", json=bad).status_code == 422


def test_promises_hold_for_the_shares_of_the_data(promising: tuple[Api, Json]) -> None:
    """At other priors a promise is refused; at the shares that the record names it is kept, with the same answers."""
    api, model = promising
    record = api.client.get(f"/v1/models/{model['id']}").json()
    body = {"inputs": digits()[0][:20].tolist()}
    for option in ({"max_error": 0.2}, {"coverage": 0.9}):
        problem(predict(promising, {**body, **option, "class_priors": RARE}), 422, "guarantee_needs_data_priors")
        kept = predict(promising, {**body, **option, "class_priors": record["class_priors"]["shares"]})
        assert kept.json() == predict(promising, {**body, **option}).json()


def test_decisions_that_keep_the_alarm_rate(promising: tuple[Api, Json]) -> None:
    """Decisions are argmax p / t with the thresholds of the record; priors move the probabilities alone."""
    api, model = promising
    thresholds = api.client.get(f"/v1/models/{model['id']}").json()["decisions"]["thresholds"]
    body = {"inputs": digits()[0][:200].tolist(), "top_k": 10, "decision": {"keep": "alarm_rate"}}
    found = predict(promising, body).json()["predictions"]
    for item in found:
        best = max(item["top_k"], key=lambda one: one["confidence"] / thresholds[one["label"]])
        assert item["decision"] == best["label"]
    assert any(item["decision"] != item["label"] for item in found)
    shifted = predict(promising, {**body, "class_priors": RARE}).json()["predictions"]
    assert [item["decision"] for item in shifted] == [item["decision"] for item in found]


def test_a_model_without_a_calibrator_has_no_priors_and_no_thresholds(served: tuple[Api, Json]) -> None:
    """An uploaded model says what it lacks."""
    for option, code in (
        ({"class_priors": EVEN}, "no_class_shares"),
        ({"decision": {"keep": "alarm_rate"}}, "no_decision_thresholds"),
    ):
        problem(predict(served, {"inputs": [ROW], **option}), 422, code)


def test_the_reachable_value_is_granted(promising: tuple[Api, Json]) -> None:
    """The value that the refusal names can be asked for."""
    for option, refused in (("max_error", 0.0), ("coverage", 1.0)):
        value = float(predict(promising, {"inputs": [ROW], option: refused}).json()["detail"].split()[-1])
        assert 0 < value < 1
        assert predict(promising, {"inputs": [ROW], option: value}).status_code == 200


@pytest.fixture(scope="session")
def seeing(tmp_path_factory: pytest.TempPathFactory, uploads: Uploads) -> Iterator[tuple[Api, Json]]:
    """A model of 8 x 8 images with preprocessing: any file becomes grey and of that size."""
    with ExitStack() as stack:
        api = open_api(tmp_path_factory.mktemp("seeing") / "data", stack)
        steps = json.dumps({"resize": [8, 8], "channels": 1})
        record = api.post("/v1/models", params={"preprocessing": steps}, content=uploads["images.onnx"])
        api.work(record["id"])
        ready = api.client.get(f"/v1/models/{record['id']}").json()
        assert ready["status"] == "ready", ready
        yield api, ready


def b64(content: bytes) -> Json:
    """An image file as it goes into a request."""
    return {"b64": base64.b64encode(content).decode()}


def test_image_files_are_rows(seeing: tuple[Api, Json]) -> None:
    """Files of any size and format get the answers that their pixels get as numbers."""
    assert seeing[1]["preprocessing"]["resize"] == [8, 8]
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    files = predict(seeing, {"inputs": [b64(image(row)) for row in pixels], "top_k": 10})
    numbers = predict(seeing, {"inputs": (pixels[:, None] / 255).tolist(), "top_k": 10})
    assert files.status_code == numbers.status_code == 200, files.text
    assert files.json() == numbers.json()
    others = [image(photo(50, 31), "JPEG", mode="CMYK"), image(photo(4, 70), "WEBP"), rotated_jpeg()]
    answer = predict(seeing, {"inputs": [b64(file) for file in others]})
    assert answer.status_code == 200, answer.text


def test_files_that_say_nothing_of_themselves(seeing: tuple[Api, Json], served: tuple[Api, Json]) -> None:
    """Images and npy files are known by their first bytes where no media type says it; anything else is 415."""
    rows, npy = np.full((1, 64), 0.5), io.BytesIO()
    np.save(npy, rows)
    for (api, model), content, plain in (
        (seeing, image(photo()), {"inputs": [b64(image(photo()))]}),
        (seeing, image(photo(), "JPEG"), {"inputs": [b64(image(photo(), "JPEG"))]}),
        (seeing, image(photo(), "WEBP"), {"inputs": [b64(image(photo(), "WEBP"))]}),
        (served, npy.getvalue(), {"inputs": rows.tolist()}),
    ):
        for kind in (None, "application/octet-stream", "application/x-www-form-urlencoded"):
            headers = {} if kind is None else {"Content-Type": kind}
            answer = api.client.post(f"/v1/models/{model['id']}/predict", content=content, headers=headers)
            assert answer.json() == predict((api, model), plain).json(), answer.text
            wrong = api.client.post(f"/v1/models/{model['id']}/predict", content=b"{}", headers=headers)
            problem(wrong, 415, "unsupported_media_type")
