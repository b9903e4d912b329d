"""Scores sent to the API: answered within the request by a worker beside it, refused without a trace, kept by key."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from service.registry.repositories import Permit
from tests.helpers.api import Api, Json
from tests.helpers.problems import fields, problem
from tests.helpers.uploads import csv, npz

pytestmark = pytest.mark.slow

PATH = "/v1/calibrators"
KEY = {"Idempotency-Key": "k"}


def scores(rows: int = 400, *, seed: int = 0, **changes: Any) -> bytes:
    """Overconfident logits of three classes, with their labels."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(rows, 3)) * 2
    labels = (true + rng.gumbel(size=true.shape)).argmax(axis=1)
    return npz(**{"logits": (3 * true).astype(np.float32), "labels": labels, **changes})


BAD = scores(labels=np.zeros(400, dtype=int))


def arrays(content: bytes) -> dict[str, Any]:
    """The arrays of an archive."""
    with np.load(io.BytesIO(content)) as found:
        return dict(found)


def files(api: Api) -> set[str]:
    """Digests of everything stored."""
    return {path.name for path in api.registry.artifacts.root.rglob("*") if path.is_file()}


def test_scores_are_answered_within_the_request(working: Api) -> None:
    """201 with the calibrator, its parameters and its report; the record is where `Location` says, and listed."""
    answer = working.client.post(f"{PATH}?name=mine&class_names=a,b,c", content=scores())
    assert answer.status_code == 201, answer.text
    record = answer.json()
    assert record["id"].startswith("cal_")
    assert answer.headers["location"] == f"{PATH}/{record['id']}"
    assert (record["name"], record["status"], record["error"], record["input"]) == ("mine", "succeeded", None, "logits")
    assert (record["num_samples"], record["num_classes"], record["class_names"]) == (400, 3, ["a", "b", "c"])
    assert record["method"] in ("log_pool", "pool", *record["report"]["methods"]["tried"])
    assert record["parameters"]
    assert record["report"]["digests"]["scores_sha256"] == record["sha256"]
    assert working.client.get(answer.headers["location"]).json() == record
    assert working.client.get(PATH).json() == {"data": [record], "has_more": False, "next": None}


@pytest.fixture(scope="module")
def fitted(shared_api: Api) -> tuple[Api, Json]:
    """A temperature that was fitted once; tests only ask for it."""
    record = shared_api.post(f"{PATH}?wait=0&method=temperature", content=scores())
    shared_api.work(record["id"])
    return shared_api, dict(shared_api.client.get(f"{PATH}/{record['id']}").json())


def test_the_file_can_be_had(fitted: tuple[Api, Json]) -> None:
    """The file has its digest as tag, comes in ranges, is not sent again to who has it, and answers for any rows."""
    working, record = fitted
    path = f"{PATH}/{record['id']}/onnx"
    answer = working.client.get(path)
    assert answer.status_code == 200
    tag = answer.headers["etag"]
    assert tag.strip('"') in files(working)
    assert working.client.get(path, headers={"If-None-Match": tag}).status_code == 304
    part = working.client.get(path, headers={"Range": "bytes=3-9"})
    assert (part.status_code, part.content) == (206, answer.content[3:10])
    session = ort.InferenceSession(answer.content, providers=["CPUExecutionProvider"])
    rows = np.array([[3.0, 0.0, -1.0]], dtype=np.float32)
    probabilities, confidence = session.run(["probabilities", "confidence"], {"logits": rows})
    powers = np.exp(rows / record["parameters"]["temperature"])
    np.testing.assert_allclose(probabilities, powers / powers.sum(), atol=1e-6)
    np.testing.assert_allclose(confidence, probabilities.max(axis=1))


def test_the_priors_of_the_file_can_be_an_input(fitted: tuple[Api, Json]) -> None:
    """A graph with priors is the file and a few bytes, with a tag of its own, and comes in ranges over their seam."""
    working, record = fitted
    path = f"{PATH}/{record['id']}/onnx"
    file, answer = working.client.get(path), working.client.get(f"{path}?class_priors=input")
    content, seam = answer.content, len(file.content)
    assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(content)))
    assert (content[:seam], seam < len(content)) == (file.content, True)
    assert answer.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    end = len(content) - 1
    for first, last in ((3, 9), (0, seam - 1), (seam - 4, seam + 4), (seam + 2, seam + 5), (seam - 1, end)):
        part = working.client.get(f"{path}?class_priors=input", headers={"Range": f"bytes={first}-{last}"})
        assert (part.status_code, part.content) == (206, content[first : last + 1])
        assert part.headers["content-range"] == f"bytes {first}-{last}/{len(content)}"
    several = working.client.get(f"{path}?class_priors=input", headers={"Range": f"bytes=0-1,{seam}-{seam + 1}"})
    assert (several.status_code, several.content) == (200, content)
    beyond = working.client.get(f"{path}?class_priors=input", headers={"Range": f"bytes={len(content)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")
    head = working.client.head(f"{path}?class_priors=input", headers={"If-None-Match": file.headers["etag"]})
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(content)))
    again = working.client.get(f"{path}?class_priors=input", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, working.client.get(f"{path}?class_priors=no").status_code) == (304, 422)
    rows, priors = np.array([[3.0, 0.0, -1.0]], dtype=np.float32), np.array([0.2, 0.7, 0.1], dtype=np.float32)
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"logits": rows, "class_priors": priors})
    shares = np.array(list(record["report"]["class_priors"]["shares"].values()))
    powers = np.exp(rows / record["parameters"]["temperature"]) * priors / shares
    np.testing.assert_allclose(found, powers / powers.sum(), atol=1e-6)


def test_form_and_csv_are_the_same_scores(working: Api, fitted: tuple[Api, Json]) -> None:
    """A form with options as parts, and a csv, give the same parameters as the raw archive."""
    raw = fitted[1]
    form = working.post(PATH, files={"file": ("mine.npz", scores())}, data={"method": "temperature"})
    with np.load(io.BytesIO(scores())) as arrays:
        table = {f"logit_{k}": arrays["logits"][:, k] for k in range(3)} | {"label": arrays["labels"]}
    text = working.post(f"{PATH}?method=temperature", content=csv(table))
    assert (form["name"], form["parameters"]) == ("mine.npz", raw["parameters"])
    assert text["parameters"]["temperature"] == pytest.approx(raw["parameters"]["temperature"], rel=1e-5)


@pytest.mark.parametrize(
    ("query", "content", "code", "field"),
    [
        ("", BAD, "one_class", None),
        ("?method=magic", scores(), "unknown_method", "method"),
    ],
)
def test_bad_scores_are_refused_without_a_trace(
    working: Api, query: str, content: bytes, code: str, field: str | None
) -> None:
    """422 with the child's own code; neither a record, nor a file, nor open work is left."""
    answer = working.client.post(PATH + query, content=content)
    errors = problem(answer, 422, code).get("errors", [])
    assert [error["field"] for error in errors] == ([field] if field else [])
    assert working.client.get(PATH).json()["data"] == []
    assert files(working) == set()
    with working.registry.read() as unit:
        assert unit.work.next_due("inspect") is None


@pytest.mark.parametrize(
    ("query", "field"),
    [("method=", "method"), ("method=A b", "method"), ("class_names=a", "class_names"), ("wait=61", "wait"),
     ("wait=-1", "wait"), ("nonsense=1", "nonsense"), ("class_priors=[1]", "class_priors"),
     ('class_priors={"0":0.5,"1":0.4}', "class_priors"), ("class_priors={", "class_priors")],
)  # fmt: skip
def test_bad_options_are_refused_at_once(api: Api, query: str, field: str) -> None:
    """An option that is wrong without opening the file is 422 before anything is stored."""
    assert fields(api.client.post(f"{PATH}?{query}", content=scores())) == {field}
    assert files(api) == set()


def test_nobody_works_in_time(api: Api) -> None:
    """When the wait runs out: 202, `running`, `Retry-After`; neither file nor report (409); later there is all."""
    answer = api.client.post(f"{PATH}?wait=0.3&method=temperature", content=scores())
    record = answer.json()
    assert (answer.status_code, record["status"], record["method"]) == (202, "running", "temperature")
    assert int(answer.headers["retry-after"]) > 0
    path = answer.headers["location"]
    problem(api.client.get(f"{path}/onnx"), 409, "no_calibrator")
    for what in ("report", "report.html", "reliability.svg"):
        problem(api.client.get(f"{path}/{what}"), 409, "no_report")
        assert api.client.get(f"{PATH}/cal_none/{what}").status_code == 404
    api.work(record["id"])
    done = api.client.get(f"{path}?wait=60").json()
    assert (done["status"], done["method"], done["created_at"]) == ("succeeded", "temperature", record["created_at"])
    assert api.client.get(f"{path}/onnx").status_code == 200


def test_failed_later_is_told_by_the_record(api: Api) -> None:
    """After a 202 the record holds the reason, and can be deleted."""
    path = api.client.post(f"{PATH}?wait=0", content=BAD).headers["location"]
    api.work(path.rpartition("/")[2])
    record = api.client.get(path).json()
    assert (record["status"], record["error"]["code"]) == ("failed", "one_class")
    assert api.client.get(f"{path}/onnx").status_code == 409
    assert api.client.delete(path).status_code == 204
    assert files(api) == set()


def test_a_defect_of_ours_is_500(api: Api) -> None:
    """A fault that the sender cannot mend is not called their error, and leaves nothing behind either."""
    error = {"code": "poisoned", "message": "its process was lost", "user_error": False}

    def fail(permits: Sequence[Permit]) -> None:
        with api.registry.write() as unit:
            unit.calibrators.fail(permits[0].record_id, error)

    api.registry.notify = fail
    problem(api.client.post(PATH, content=scores()), 500, "poisoned")
    assert api.client.get(PATH).json()["data"] == []


def test_deleted_while_it_runs(api: Api) -> None:
    """Deleting scores that wait for a worker closes their work: nothing is fitted, nothing is left."""
    path = api.client.post(f"{PATH}?wait=0", content=scores()).headers["location"]
    assert api.client.delete(path).status_code == 204
    api.work(path.rpartition("/")[2])
    assert api.client.get(path).status_code == 404
    assert files(api) == set()


def test_a_key_gives_the_final_answer_again(working: Api) -> None:
    """Same key and scores: the same calibrator, fitted once, though patience differs; other options: 422."""
    first = working.client.post(PATH, content=scores(), headers=KEY)
    again = working.client.post(f"{PATH}?wait=1", content=scores(), headers=KEY)
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert again.headers["location"] == first.headers["location"]
    other = working.client.post(f"{PATH}?method=temperature", content=scores(), headers=KEY)
    problem(other, 422, "idempotency_key_reused")
    assert len(working.client.get(PATH).json()["data"]) == 1


def test_a_key_gives_the_refusal_again(working: Api) -> None:
    """Scores that were refused are refused again in the same words, without being opened a second time."""
    first, again = (working.client.post(PATH, content=BAD, headers=KEY) for _ in range(2))
    assert (first.status_code, again.status_code, again.json()) == (422, 422, first.json())
    assert files(working) == set()


def test_a_key_after_202_gives_what_came_of_it(api: Api) -> None:
    """A client that repeats its request after a 202 gets the calibrator that was begun then."""
    begun = api.client.post(f"{PATH}?wait=0", content=scores(), headers=KEY).json()
    worker = threading.Timer(0.3, api.work, [begun["id"]])
    worker.start()
    answer = api.client.post(PATH, content=scores(), headers=KEY)
    worker.join()
    assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (201, begun["id"], "succeeded")
    assert api.client.post(PATH, content=scores(), headers=KEY).json() == answer.json()


@pytest.mark.parametrize("content", [scores(), BAD], ids=["good", "bad"])
def test_many_requests_with_one_key_at_once(working: Api, content: bytes) -> None:
    """Several requests with one key make one record; one that comes while the first arrives is asked to wait."""

    def send(_: int) -> Any:
        return working.client.post(PATH, content=content, headers=KEY)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, range(4)))
    told = [answer for answer in answers if answer.status_code != 409]
    assert len({answer.text for answer in told}) == 1, [answer.text[:200] for answer in answers]
    assert {answer.status_code for answer in told} == ({201} if content != BAD else {422})
    assert {answer.json()["code"] for answer in answers if answer not in told} <= {"idempotency_key_in_flight"}
    assert len(working.client.get(PATH).json()["data"]) == (1 if content != BAD else 0)


def test_the_report_is_that_of_a_job(working: Api) -> None:
    """The record holds an excerpt of the report; the whole, its page and its diagram are where a job has them."""
    record = working.post(PATH, content=scores(group=np.arange(400), site=np.arange(400) % 2))
    assert record["report_url"] == f"{PATH}/{record['id']}/report"
    answer = working.client.get(record["report_url"])
    report = answer.json()
    assert answer.headers["content-security-policy"].endswith("sandbox")
    assert {name: report[name] for name in record["report"] if name in report} == {
        name: value for name, value in record["report"].items() if name in report
    }
    assert {"reliability", "risk_coverage", "classes", "label_noise", "candidates"} <= set(report)
    page = working.client.get(f"{PATH}/{record['id']}/report.html")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    diagram = working.client.get(f"{PATH}/{record['id']}/reliability.svg")
    assert (diagram.status_code, diagram.headers["content-type"]) == (200, "image/svg+xml")


def test_looks_at_the_same_test_rows_are_counted(working: Api) -> None:
    """The second calibrator of a file is judged as a second look, whatever became of the first record."""
    first = working.post(PATH, content=scores())
    assert working.client.delete(f"{PATH}/{first['id']}").status_code == 204
    second = working.post(f"{PATH}?method=temperature", content=scores())
    assert [record["report"]["looks"] for record in (first, second)] == [{"before": 0}, {"before": 1}]
    assert second["report"]["gate"]["level"] < first["report"]["gate"]["level"] / 2
    assert working.post(PATH, content=scores(seed=1))["report"]["looks"] == {"before": 0}


def test_scores_that_are_refused_or_deleted_have_shown_nothing(api: Api) -> None:
    """A calibrator that fails, or is deleted before it is fitted, gives its look back."""
    path = api.client.post(f"{PATH}?wait=0&method=magic", content=scores()).headers["location"]
    api.work(path.rpartition("/")[2])
    assert api.client.get(path).json()["status"] == "failed"
    digest = api.client.get(path).json()["sha256"]
    with api.registry.write() as unit:
        assert unit.ledger.evaluations(digest) == 0
    begun = api.post(f"{PATH}?wait=0", content=scores())
    with api.registry.write() as unit:
        assert unit.ledger.enter(digest, begun["id"]) == 0
    assert api.client.delete(f"{PATH}/{begun['id']}").status_code == 204
    with api.registry.read() as unit:
        assert unit.ledger.evaluations(digest) == 0


def test_guarantee_rows_promise_and_roles_are_named(working: Api) -> None:
    """Rows of the split `guarantee` set thresholds, in the report and in the file; roles name columns."""
    split = np.array(["calibration", "test", "guarantee", "test"] * 100)
    content = npz(**{**arrays(scores()), "part": split})
    record = working.post(PATH, params={"roles": '{"split": "part"}'}, content=content)
    assert record["report"]["guarantees"]["num_rows"] == 100
    file = working.client.get(f"{PATH}/{record['id']}/onnx").content
    metadata = ort.InferenceSession(file, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["guarantees"])["num_rows"] == 100
    problem(working.client.post(PATH, params={"roles": '{"shape": "part"}'}, content=content), 422, "invalid_roles")
