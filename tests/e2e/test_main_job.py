"""The main job over HTTP: both uploads, a calibration, its evidence, and predictions that the file itself confirms."""

from __future__ import annotations

import io
import math

import numpy as np
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest

from tests.helpers import uploads as made
from tests.helpers.service import Json, Service, until
from tests.helpers.uploads import Uploads


def run_file(service: Service, model_id: str, inputs: dict[str, made.Array]) -> dict[str, made.Array]:
    """Download the model's file, with an input for class priors that are given, and run it with ONNX Runtime alone."""
    params = {"class_priors": "input"} if "class_priors" in inputs else {}
    answer = service.client.get(f"/v1/models/{model_id}/onnx", params=params)
    assert answer.status_code == 200, answer.text
    session = ort.InferenceSession(answer.content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def test_records_are_profiled(digits: tuple[Json, Json]) -> None:
    """Inspection finds inputs, classes, penultimate features and the splits as they were sent."""
    model, dataset = digits
    assert model["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["N", 64]}]
    assert (model["output"]["kind"], model["num_classes"], model["features"]["dim"]) == ("logits", 10, 64)
    assert (model["task"], model["trainable"], model["calibrated"]) == ("multiclass", True, False)
    assert dataset["splits"] == made.COUNTS
    assert (dataset["num_samples"], dataset["num_classes"]) == (1797, 10)
    assert dataset["seen_by_model"] == "train_split"
    assert sum(dataset["class_counts"].values()) == 1797


def test_job_reaches_its_verdict(service: Service, finished: Json) -> None:
    """An overconfident model comes back better calibrated, with the whole history of its job."""
    assert finished["verdict"] in ("trained", "post_hoc")
    assert (finished["serves"], finished["attempts"], finished["metadata"]) == ("calibrated", 1, {"a": "b"})
    assert [line["status"] for line in finished["history"]] == ["queued", "running", "succeeded"]
    assert finished["created_at"] <= finished["started_at"] <= finished["finished_at"]
    assert finished["progress"]["fraction"] == 1.0
    model = service.get(f"/v1/models/{finished['calibrated_model_id']}")
    assert (model["origin"], model["calibrated"], model["status"]) == ("calibrated", True, "ready")
    assert (model["parent_id"], model["job_id"]) == (finished["model_id"], finished["id"])
    assert model["report_url"] == finished["report_url"] == f"/v1/jobs/{finished['id']}/report"


def test_report_agrees_with_scores_of_the_file(service: Service, finished: Json) -> None:
    """Accuracy, NLL and Brier of the report are those of the downloaded file on the test rows."""
    rows, targets, splits = made.digits()
    rows, targets = rows[splits == "test"], targets[splits == "test"]
    probs = run_file(service, finished["calibrated_model_id"], {"x": rows})["probabilities"].astype(np.float64)
    own = probs[np.arange(len(targets)), targets]
    scores = {
        "accuracy": (probs.argmax(1) == targets).mean(),
        "nll": -np.log(own).mean(),
        "brier": ((probs - np.eye(10)[targets]) ** 2).sum(1).mean(),
    }
    reported = service.get(finished["report_url"])["metrics"]["calibrated"]
    assert {name: reported[name]["value"] for name in scores} == pytest.approx(scores, abs=1e-4)


def test_predictions_of_a_job_are_what_its_report_judges(service: Service, finished: Json) -> None:
    """Page by page and as Parquet: the test rows with their labels, and probabilities that give the report's scores."""
    path = f"/v1/jobs/{finished['id']}/predictions"
    page = service.get(path, split="test", limit=300)
    found: list[Json] = page["data"]
    while page["has_more"]:
        page = service.get(path, limit=300, after=found[-1]["row"])
        found += page["data"]
    _, targets, splits = made.digits()
    assert [row["row"] for row in found] == np.flatnonzero(splits == "test").tolist()
    assert [row["label"] for row in found] == [str(k) for k in targets[splits == "test"]]
    assert page["class_names"] == [str(k) for k in range(10)]
    probs, own = np.array([row["probabilities"] for row in found]), targets[splits == "test"]
    scores = {
        "accuracy": (probs.argmax(1) == own).mean(),
        "nll": -np.log(probs[np.arange(len(own)), own]).mean(),
        "brier": ((probs - np.eye(10)[own]) ** 2).sum(1).mean(),
    }
    reported = service.get(finished["report_url"])["metrics"]["calibrated"]
    assert {name: reported[name]["value"] for name in scores} == pytest.approx(scores, abs=1e-6)
    for given in ({"params": {"format": "parquet"}}, {"headers": {"Accept": "application/vnd.apache.parquet"}}):
        answer = service.client.get(path, **given)
        assert answer.headers["content-type"] == "application/vnd.apache.parquet"
        assert pq.read_table(io.BytesIO(answer.content)).to_pylist() == found
    refused = service.client.get(path, params={"split": "train"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "split")
    missing = service.client.get("/v1/jobs/job_00000000000000000000000000/predictions")
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown_job")


def test_calibration_error_halves(service: Service, finished: Json) -> None:
    """ECE at least halves, down to the noise floor's order, and accuracy falls by no more than half a point."""
    metrics = service.get(finished["report_url"])["metrics"]
    before, after = metrics["uploaded"], metrics["calibrated"]
    assert before["ece"]["value"] > 0.1
    assert after["ece"]["value"] < before["ece"]["value"] / 2
    assert after["accuracy"]["value"] >= before["accuracy"]["value"] - 0.005


def test_predictions_are_those_of_the_file(service: Service, finished: Json) -> None:
    """Confidence, label and uncalibrated confidence are what ONNX Runtime computes from the downloaded file."""
    rows = made.digits()[0][-50:]
    model_id = finished["calibrated_model_id"]
    answers = service.predict(model_id, rows.tolist(), top_k=3)
    outputs = run_file(service, model_id, {"x": rows})
    probs, logits = outputs["probabilities"], outputs["logits"].astype(np.float64)
    softmax = np.exp(logits - logits.max(1, keepdims=True))
    uncalibrated = softmax.max(1) / softmax.sum(1)
    np.testing.assert_allclose([answer["confidence"] for answer in answers], probs.max(1), atol=1e-5)
    np.testing.assert_allclose(outputs["confidence"], probs.max(1), atol=1e-6)
    np.testing.assert_allclose([answer["uncalibrated_confidence"] for answer in answers], uncalibrated, atol=1e-5)
    assert [answer["index"] for answer in answers] == probs.argmax(1).tolist()
    assert set(outputs) == {"logits", "probabilities", "confidence"}
    for answer, row in zip(answers, probs, strict=True):
        assert answer["label"] == str(answer["index"])
        assert [item["index"] for item in answer["top_k"]] == np.argsort(-row, kind="stable")[:3].tolist()
        assert answer["top_k"][0]["confidence"] == answer["confidence"]


def test_uploaded_model_predicts_uncalibrated(service: Service, digits: tuple[Json, Json], uploads: Uploads) -> None:
    """An uploaded model answers with the softmax of the very file that was sent."""
    rows = made.digits()[0][-20:]
    answer = service.client.post(f"/v1/models/{digits[0]['id']}/predict", json={"inputs": rows.tolist()}).json()
    assert answer["model"] == {"id": digits[0]["id"], "name": "digits", "version": 1, "calibrated": False}
    session = ort.InferenceSession(uploads["digits.onnx"], providers=["CPUExecutionProvider"])
    scores = session.run(None, {"x": rows})[0].astype(np.float64)
    expected = 1 / np.exp(scores - scores.max(1, keepdims=True)).sum(1)
    for name in ("confidence", "uncalibrated_confidence"):
        np.testing.assert_allclose([item[name] for item in answer["predictions"]], expected, atol=1e-5)


def test_batch_predictions_equal_single_ones(service: Service, finished: Json) -> None:
    """A batch over the dataset answers, page by page, what single requests answer, in the dataset's order."""
    order = {"model": finished["calibrated_model_id"], "dataset_id": finished["dataset_id"], "top_k": 2}
    created = service.client.post("/v1/batches", json={**order, "abstain_below": 0.6})
    assert created.status_code == 202, created.text
    path = created.headers["location"]
    batch = service.final(path)
    assert (batch["status"], batch["num_rows"], batch["error"]) == ("succeeded", 1797, None)
    page = service.get(f"{path}/results", limit=1000)
    rows = [*page["data"], *service.get(f"{path}/results", limit=1000, after=page["next"])["data"]]
    assert [row["row"] for row in rows] == list(range(1797))
    single = service.predict(order["model"], made.digits()[0][:100].tolist(), top_k=2, abstain_below=0.6)
    for row, answer in zip(rows, single, strict=False):
        assert row["confidence"] == pytest.approx(answer["confidence"], abs=1e-5)
        assert {key: row[key] for key in ("label", "index", "abstain")} == {
            key: answer[key] for key in ("label", "index", "abstain")
        }
        assert [item["label"] for item in row["top_k"]] == [item["label"] for item in answer["top_k"]]
    assert {row["abstain"] for row in rows} == {True, False}
    assert all(row["abstain"] == (row["confidence"] < 0.6) for row in rows)


def test_published_name_predicts_and_rolls_back(service: Service, finished: Json) -> None:
    """A published name answers with its default version, and switching the default switches the model."""
    names = {record["name"]: record for record in service.get("/v1/names")["data"]}
    record = names["digits"]
    assert record["versions"][str(record["default_version"])] == finished["calibrated_model_id"]
    answer = service.client.post("/v1/models/digits/predict", json={"inputs": made.digits()[0][:1].tolist()}).json()
    assert answer["model"] == {
        "id": finished["calibrated_model_id"],
        "name": "digits",
        "version": record["default_version"],
        "calibrated": True,
    }
    assert service.client.patch("/v1/names/digits", json={"default_version": 99}).status_code == 422
    assert service.client.patch("/v1/names/nobody", json={"default_version": 1}).status_code == 404
    assert service.client.delete(f"/v1/models/{finished['calibrated_model_id']}").status_code == 409


@pytest.mark.slow
def test_two_inputs(service: Service, uploads: Uploads) -> None:
    """A text model with two int64 inputs is calibrated and predicts from an object of rows."""
    ids, mask, targets = made.sentences()
    model = service.upload("models", uploads["text.onnx"])
    content = made.npz(input_ids=ids, attention_mask=mask, y=targets)
    dataset = service.upload("datasets", content, seen_by_model="no")
    job = service.calibrated(model, dataset)
    answers = service.predict(
        job["calibrated_model_id"], {"input_ids": ids[:9].tolist(), "attention_mask": mask[:9].tolist()}
    )
    session_inputs = {"input_ids": ids[:9], "attention_mask": mask[:9]}
    outputs = run_file(service, job["calibrated_model_id"], session_inputs)
    scores = outputs.get("probabilities")
    if scores is None:  # unchanged: the file as it was sent
        scores = np.exp(outputs["scores"]) / np.exp(outputs["scores"]).sum(1, keepdims=True)
    np.testing.assert_allclose([answer["confidence"] for answer in answers], scores.max(1), atol=1e-5)
    bad = {"inputs": {"input_ids": [[10_000] + [0] * 11], "attention_mask": [[1] * 12]}}
    refused = service.client.post(f"/v1/models/{model['id']}/predict", json=bad)
    assert (refused.status_code, refused.json()["code"]) == (422, "inputs_refused")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [("binary.onnx", {"task": "binary"}), pytest.param("two_columns.onnx", {}, marks=pytest.mark.slow)],
)
def test_binary_models(service: Service, uploads: Uploads, name: str, options: Json) -> None:
    """One logit or two columns: a binary model tells the probability of its positive class, at the job's priors."""
    given = {"class_names": "even,odd", "positive_class": "even", **options}
    model = service.inspected("models", uploads[name], **given)
    assert (model["status"], model["task"], model["num_classes"]) == ("ready", "binary", 2), model
    dataset = service.upload("datasets", uploads["binary.npz"])
    rare = {"even": 0.02, "odd": 0.98}
    job = service.calibrated(model, dataset, class_priors=rare)
    rows = made.digits()[0][-20:]
    answers = service.predict(job["calibrated_model_id"], rows.tolist())
    check_deployment(service, job, rare, rows, [answer["probability"] for answer in answers])
    session = ort.InferenceSession(uploads[name], providers=["CPUExecutionProvider"])
    raw = session.run(None, {"x": rows})[0].astype(np.float64)
    odds = raw[:, 1] - raw[:, 0] if raw.shape[1] == 2 else raw[:, 0]
    for answer, odd in zip(service.predict(model["id"], rows.tolist()), odds, strict=True):
        assert answer["probability"] == pytest.approx(1 / (1 + math.exp(odd)), abs=1e-5)
        assert answer["label"] == ("odd" if odd > 0 else "even")
    for answer in answers:
        even = answer["confidence"] if answer["label"] == "even" else 1 - answer["confidence"]
        assert answer["probability"] == pytest.approx(even, abs=1e-6)


def check_deployment(service: Service, job: Json, rare: Json, rows: made.Array, even: list[float]) -> None:
    """The file answers at the priors of its job and at others; batches decide as single requests do."""
    report = service.get(job["report_url"])
    assert (job["class_priors"], report["class_priors"]["default"]) == (rare, rare)
    assert report["decisions"]["keep"] == "alarm_rate"
    model = service.get(f"/v1/models/{job['calibrated_model_id']}")
    shares = model["class_priors"]["shares"]
    given = np.array([shares["even"], shares["odd"]], np.float32)
    at_shares = run_file(service, model["id"], {"x": rows, "class_priors": given})["probabilities"]
    np.testing.assert_allclose(run_file(service, model["id"], {"x": rows})["probabilities"][:, 0], even, atol=1e-6)
    shifted = at_shares * np.array([0.02, 0.98]) / given
    np.testing.assert_allclose(even, shifted[:, 0] / shifted.sum(1), atol=1e-5)
    order = {"model": model["id"], "dataset_id": job["dataset_id"], "decision": {"keep": "alarm_rate"}}
    created = service.client.post("/v1/batches", json={**order, "class_priors": shares})
    assert created.status_code == 202, created.text
    batch = service.final(created.headers["location"])
    assert (batch["status"], batch["class_priors"]) == ("succeeded", shares), batch
    thresholds = model["decisions"]["thresholds"]
    odds = {name: rare[name] / shares[name] / thresholds[name] for name in shares}
    for row in service.get(batch["results_url"])["data"]:
        certain = {"even": row["probability"] * odds["even"], "odd": (1 - row["probability"]) * odds["odd"]}
        assert row["decision"] == max(certain, key=certain.__getitem__)


@pytest.mark.slow
def test_somebody_has_to_say_what_the_model_has_seen(
    service: Service, uploads: Uploads, digits: tuple[Json, Json]
) -> None:
    """Without splits and a word a job is refused at once, and nothing of it stays; where it is unknown, it says so."""
    rows = made.digits_npz(split=None)
    dataset = service.upload("datasets", rows)
    before = [service.get(f"/v1/{kind}") for kind in ("models", "datasets", "jobs")]
    both = {"model": uploads["digits.onnx"], "dataset": rows}
    named = {"model_id": digits[0]["id"], "dataset_id": dataset["id"]}
    for refused in (service.client.post("/v1/jobs", json=named), service.client.post("/v1/jobs", files=both)):
        assert (refused.status_code, refused.json()["code"]) == (422, "provenance_needed"), refused.text
        assert "seen_by_model=no" in refused.json()["detail"]
        assert "column split" in refused.json()["detail"]
    after = [service.get(f"/v1/{kind}") for kind in ("models", "datasets", "jobs")]
    assert [[one["id"] for one in page["data"]] for page in before] == [
        [one["id"] for one in page["data"]] for page in after
    ]
    unknown = service.upload("datasets", rows, seen_by_model="unknown")
    job = service.calibrated(digits[0], unknown, publish_as="nobody-knows")
    assert (job["verdict"], job["serves"], job["significant"]) == ("undetermined", "uploaded", False)
    assert "undetermined" in [warning["code"] for warning in job["warnings"]]
    assert any("seen_by_model" in sentence for sentence in service.get(job["report_url"])["summary"])
    for address in (job["predict_url"], "/v1/models/nobody-knows/predict"):
        answer = service.client.post(address, json={"inputs": [[0.0] * 64]})
        assert (answer.status_code, answer.json()["model"]["calibrated"]) == (200, False)


@pytest.mark.slow
def test_running_and_queued_jobs_can_be_cancelled(service: Service, digits: tuple[Json, Json]) -> None:
    """A queued job is cancelled at once, a running one as soon as its worker hears of it; neither leaves a model."""
    long = {"hyperparameters": {"epochs": 1000}, "budget": {"minutes": 5, "candidates": 16}}
    running, queued = service.order(*digits, **long), service.order(*digits)
    for name in ("report", "report.html", "reliability.svg"):
        early = service.client.get(f"/v1/jobs/{running['id']}/{name}")
        assert (early.status_code, early.json()["code"]) == (409, "no_report")
    in_use = service.client.delete(f"/v1/models/{digits[0]['id']}")
    assert (in_use.status_code, in_use.json()["code"]) == (409, "in_use")
    until(lambda: service.job(running["id"])["status"] == "running", seconds=150, what="the first job runs")
    answer = service.client.post(f"/v1/jobs/{queued['id']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    until(lambda: service.job(running["id"])["stage"] == "training", seconds=150, what="it trains")
    assert service.client.post(f"/v1/jobs/{running['id']}/cancel").json()["status"] == "cancelling"
    ended = service.ended(running["id"])
    assert (ended["status"], ended["calibrated_model_id"]) == ("cancelled", None)
    assert [line["status"] for line in ended["history"]] == ["queued", "running", "cancelling", "cancelled"]
    twice = service.client.post(f"/v1/jobs/{running['id']}/cancel")
    assert (twice.status_code, twice.json()["code"]) == (409, "already_finished")


def test_one_data_folder_one_service(service: Service) -> None:
    """A second `fedlas serve` on the same folder refuses to start and leaves the first one alone."""
    second = Service.__new__(Service)
    second.data_dir, second.log_file = service.data_dir, service.data_dir.with_name("second.log")
    second._environment = service._environment
    with pytest.raises(AssertionError, match="already uses"):
        second.start()
    assert second.process.wait(60) == 1
    second.client.close()
    assert service.get("/readyz")["status"] == "ready"


@pytest.mark.slow
def test_rows_outside_a_vocabulary_are_the_senders_error(service: Service, uploads: Uploads) -> None:
    """Token ids that the model does not know fail job and batch with `user_error`, not as a defect of ours."""
    ids, mask, targets = made.sentences()
    ids[7, 0] = 10_000
    model = service.upload("models", uploads["text.onnx"])
    content = made.npz(input_ids=ids, attention_mask=mask, label=targets)
    dataset = service.inspected("datasets", content, seen_by_model="no")
    assert service.final(f"/v1/models/{model['id']}")["status"] == "ready"
    batch = service.client.post("/v1/batches", json={"model": model["id"], "dataset_id": dataset["id"]}).json()
    ended = service.final(f"/v1/batches/{batch['id']}")
    assert (ended["status"], ended["error"]["user_error"]) == ("failed", True), ended
    job = service.ended(service.order(model, dataset)["id"])
    assert (job["status"], job["error"]["user_error"]) == ("failed", True), job
