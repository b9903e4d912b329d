"""Signs of a credible report, over HTTP: groups, slices, promises, looks, and data that tempt to a false verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from fedlas.guarantees import Guarantees
from tests.helpers import uploads as made
from tests.helpers.service import Json, Service
from tests.helpers.uploads import Uploads

pytestmark = pytest.mark.slow

HOSTILE = [
    "<script>alert(1)</script>", "</style><img src=x onerror=alert(2)>", '"><b>', "&lt;b&gt;", "five", "six", "seven",
    "eight", "nine", "ten",
]  # fmt: skip
QUICK = {"method": "temperature", "budget": {"minutes": 1, "candidates": 1}, "outputs": ["typicality"]}


def words(**counts: int) -> made.Array:
    """The split of every row."""
    return np.repeat(list(counts), list(counts.values()))


def file_of(service: Service, model_id: str) -> bytes:
    """The model's file."""
    answer = service.client.get(f"/v1/models/{model_id}/onnx")
    assert answer.status_code == 200, answer.text
    return answer.content


def alone(content: bytes, rows: made.Array) -> dict[str, made.Array]:
    """All outputs of a file, run with nothing but ONNX Runtime."""
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": rows}), strict=True))


def refusal(service: Service, model_id: str, **wish: Any) -> tuple[int, str, str]:
    """Status, code and detail of a prediction that is refused."""
    inputs = made.digits()[0][:2].tolist()
    answer = service.client.post(f"/v1/models/{model_id}/predict", json={"inputs": inputs, **wish})
    problem = answer.json()
    return answer.status_code, problem.get("code", ""), json.dumps(problem)


@pytest.fixture(scope="module")
def promised(service: Service, uploads: Uploads) -> Json:
    """A finished job of a model with hostile class names, on digits with writers, hospitals and 97 guarantee rows."""
    model = service.inspected("models", uploads["digits.onnx"], class_names=json.dumps(HOSTILE))
    _, _, splits = made.digits()
    writers = np.array([f"{split}-{i // 4}" for i, split in enumerate(splits)])
    hospitals = np.where(np.arange(len(splits)) % 3 == 0, "<i>north</i>", "south")
    content = made.digits_npz(writer=writers, hospital=hospitals)
    roles = json.dumps({"group": "writer", "slices": ["hospital"]})
    dataset = service.inspected("datasets", content, roles=roles)
    assert (model["status"], dataset["status"]) == ("ready", "ready"), (model, dataset)
    return service.calibrated(model, dataset, **QUICK)


def test_groups_and_slices_reach_the_report(service: Service, promised: Json) -> None:
    """The report counts the writers of the test rows, and shows each hospital with the rows that it has."""
    report = service.get(promised["report_url"])
    _, _, splits = made.digits()
    places = np.flatnonzero(splits == "test")
    assert report["num_groups"] == len(np.unique(places // 4))
    found = {row["value"]: row["num_rows"] for row in report["slices"]["rows"]}
    north = int((places % 3 == 0).sum())
    assert found == {"<i>north</i>": north, "south": len(places) - north}
    assert {row["column"] for row in report["slices"]["rows"]} == {"hospital"}


def test_the_page_is_safe_to_open(service: Service, promised: Json) -> None:
    """The page may load and run nothing, and what class names and slices contain is shown as text."""
    answer = service.client.get(f"/v1/jobs/{promised['id']}/report.html")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    for raw in ("<script", "<img src=x", "<i>north", '"><b>'):
        assert raw not in answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text
    assert "&lt;i&gt;north&lt;/i&gt;" in answer.text
    assert promised["verdict"] == service.get(promised["report_url"])["verdict"]


def test_the_file_alone_is_the_service(service: Service, promised: Json) -> None:
    """Probabilities, confidence and typicality of the downloaded file are those that the service answers with."""
    rows = np.concatenate([made.digits()[0][-40:], np.random.default_rng(0).random((5, 64), np.float32) * 3])
    outputs = alone(file_of(service, promised["calibrated_model_id"]), rows)
    answers = service.predict(promised["calibrated_model_id"], rows.tolist(), top_k=10)
    served = np.zeros((45, 10))
    for row, answer in zip(served, answers, strict=True):
        for item in answer["top_k"]:
            row[item["index"]] = item["confidence"]
    np.testing.assert_allclose(served, outputs["probabilities"], atol=1e-5)
    np.testing.assert_allclose([answer["confidence"] for answer in answers], outputs["confidence"], atol=1e-5)
    np.testing.assert_allclose([answer["typicality"] for answer in answers], outputs["typicality"], atol=1e-5)
    assert outputs["typicality"][-5:].max() < 0.05 < np.median(outputs["typicality"][:40])


def test_the_file_carries_the_promises(service: Service, promised: Json) -> None:
    """The file's metadata sets the same threshold and the same sets as the service; what cannot be kept is refused."""
    model_id, rows = promised["calibrated_model_id"], made.digits()[0][-200:]
    content = file_of(service, model_id)
    stored = {item.key: item.value for item in onnx.load_from_string(content).metadata_props}
    guarantees = Guarantees.from_dict(json.loads(stored["guarantees"]))
    reachable = float(guarantees.bounds.min())
    level = round(reachable + 0.01, 4)
    threshold = guarantees.threshold_for(level)
    answers = service.predict(model_id, rows.tolist(), max_error=level, coverage=0.8)
    outputs = alone(content, rows)
    assert [answer["abstain"] for answer in answers] == (outputs["confidence"] < threshold).tolist()
    sets = guarantees.prediction_sets(outputs["probabilities"], 0.8)
    found = np.array([[name in answer["prediction_set"] for name in HOSTILE] for answer in answers])
    assert (found == sets).all()
    status, code, detail = refusal(service, model_id, max_error=reachable / 2)
    assert (status, code) == (422, "max_error_unreachable")
    assert f"{reachable:.6f}" in detail


def test_ten_looks_of_a_null_candidate(service: Service, uploads: Uploads) -> None:
    """A model is calibrated ten times more on the rows that fitted its temperature: each look counts, none is shown."""
    rows, targets, splits = made.digits()
    kept = np.concatenate([np.flatnonzero(splits == name)[:300] for name in ("calibration", "test")])
    content = made.npz(x=rows[kept], label=targets[kept], split=splits[kept])
    model, dataset = (service.inspected(*sent) for sent in (("models", uploads["digits.onnx"]), ("datasets", content)))
    first = service.calibrated(model, dataset, **QUICK)
    assert first["serves"] == "calibrated"
    again = [service.order({"id": first["calibrated_model_id"]}, dataset, **QUICK, seed=seed) for seed in range(10)]
    ended = [service.ended(job["id"], seconds=300) for job in again]
    assert [(job["status"], job["significant"]) for job in ended] == [("succeeded", False)] * 10
    reports: Sequence[Json] = [service.get(job["report_url"]) for job in ended]
    assert sorted(report["looks"]["before"] for report in reports) == list(range(1, 11))
    levels = [report["gate"]["level"] for report in sorted(reports, key=lambda report: report["looks"]["before"])]
    assert levels == sorted(levels, reverse=True)
    assert sum(levels) < 0.25 * 0.05


def test_seen_rows_offered_as_unseen(service: Service, uploads: Uploads) -> None:
    """The model's own training rows, wrong labels and all, sent as "never seen": the report warns first of all."""
    rows, targets, splits = made.digits()
    own = np.flatnonzero(splits == "train")
    content = made.npz(x=rows[own], label=targets[own], split=words(calibration=150, test=250))
    model = service.inspected("models", uploads["digits.onnx"])
    dataset = service.inspected("datasets", content, seen_by_model="no")
    report = service.get(service.calibrated(model, dataset, **QUICK)["report_url"])
    assert report["metrics"]["uploaded"]["accuracy"]["value"] > 0.99
    assert any("has not seen these rows" in sentence for sentence in report["warnings"])
    assert any("has not seen these rows" in sentence for sentence in report["summary"])


def test_a_destroyed_candidate_is_not_served(service: Service, digits: tuple[Json, Json]) -> None:
    """At a learning rate of 5 the network is destroyed: what comes back is the uploaded one, with its accuracy."""
    settings = {"learning_rate": 5.0, "epochs": 3, "scope": "all"}
    job = service.calibrated(*digits, method="cross_entropy", hyperparameters=settings)
    report = service.get(job["report_url"])
    trained = [one for one in report["candidates"] if one["method"] == "cross_entropy"]
    assert [one["status"] in ("dropped", "diverged") for one in trained] == [True] * len(trained) != []
    assert job["verdict"] == "post_hoc"
    accuracy = {name: report["metrics"][name]["accuracy"]["value"] for name in ("uploaded", "calibrated")}
    assert accuracy["calibrated"] >= accuracy["uploaded"] - 0.005
