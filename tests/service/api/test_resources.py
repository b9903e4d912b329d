"""Uploads, pages, tags, keys and the rest of what a well-behaved client does."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fedlas.contract.records import JobRecord
from fedlas.contract.requests import Hyperparameters, JobOptions, JobRequest
from fedlas.preprocessing import Preprocessing
from service.processes.api import create_app
from service.registry.settings import ServiceSettings
from tests.helpers import ROOT
from tests.helpers.api import Api, MakeApi
from tests.helpers.processes import until
from tests.helpers.staging import stage_bytes


@pytest.mark.parametrize("kind", ["models", "datasets"])
def test_raw_and_multipart_uploads_are_the_same(api: Api, kind: str) -> None:
    """Raw body or form: the record has size, digest and name, is inspecting, and is where `Location` says."""
    raw = api.client.post(f"/v1/{kind}?name=mine", content=b"content")
    form = api.client.post(f"/v1/{kind}", files={"file": ("mine", b"content")})
    for answer in (raw, form):
        assert answer.status_code == 201
        record = answer.json()
        assert answer.headers["location"] == f"/v1/{kind}/{record['id']}"
        assert (record["name"], record["bytes"], record["status"]) == ("mine", 7, "inspecting")
        assert api.client.get(answer.headers["location"]).json() == record
    assert raw.json()["sha256"] == form.json()["sha256"]
    named = api.client.post(f"/v1/{kind}?name=query", files={"file": ("f", b"x")}, data={"name": "form"})
    assert named.json()["name"] == "form"


def test_a_graph_and_its_weights_are_one_stored_file(make_api: MakeApi) -> None:
    """Parts `model` and `data` are one file, a zip of the two by their names, whichever comes first."""
    api = make_api(max_upload_bytes=5000)
    parts = {"model": ("C:\\m.onnx", b"graph"), "data": ("x/m.onnx.data", b"weights" * 200)}
    key = {"Idempotency-Key": "k"}
    first = api.client.post("/v1/models", files=parts, headers=key)
    again = api.client.post("/v1/models", files=dict(reversed(parts.items())), headers=key)
    job = api.post("/v1/jobs", files={**parts, "dataset": ("d", b"d")})
    assert (first.status_code, first.json()) == (201, again.json())
    sent = api.client.get(f"/v1/models/{first.json()['id']}/onnx")
    assert api.client.get(f"/v1/models/{job['model_id']}").json()["sha256"] == hashlib.sha256(sent.content).hexdigest()
    with zipfile.ZipFile(io.BytesIO(sent.content)) as archive:
        stored = {name: archive.read(name) for name in archive.namelist()}
    assert stored == {"m.onnx": b"graph", "m.onnx.data": b"weights" * 200}
    assert [path.name for path in (api.registry.artifacts.root / "incoming").iterdir()] == []
    for files, code in (
        ({**parts, "data": ("w", bytes(4900))}, "too_large"),
        ({"data": parts["data"]}, "missing_part"),
        ({**parts, "file": ("m", b"m")}, "invalid_form"),
    ):
        assert api.client.post("/v1/models", files=files).json()["code"] == code
    assert api.client.post("/v1/jobs", files={"data": parts["data"], "dataset": ("d", b"d")}).status_code == 422


def test_job_in_one_call_makes_three_records(api: Api) -> None:
    """Files as parts and the order as JSON: three records, each with its options; JSON may come as a file too."""
    job_part = json.dumps({"metadata": {"team": "x"}, "budget": {"minutes": 1}})
    for part in ((None, job_part), ("job.json", job_part, "application/json")):
        options = json.dumps({"roles": {"label": "y"}, "seen_by_model": "no"})
        files = {
            "model": ("m.onnx", b"model"),
            "dataset": ("d.npz", b"dataset"),
            "job": part,
            "dataset_options": ("options.json", options) if part[0] else (None, options),
        }
        answer = api.client.post("/v1/jobs", files=files)
        assert answer.status_code == 202, answer.text
        job = answer.json()
        assert (job["status"], job["metadata"], job["method"]) == ("queued", {"team": "x"}, "auto")
        assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
        assert int(answer.headers["retry-after"]) > 0
        dataset = api.client.get(f"/v1/datasets/{job['dataset_id']}").json()
        assert (dataset["name"], dataset["seen_by_model"]) == ("d.npz", "no")
        assert api.client.get(f"/v1/models/{job['model_id']}").json()["bytes"] == 5


def test_options_of_uploads_stand_in_their_records(api: Api) -> None:
    """Options that the sender gives for images are kept, checked and completed, also within one call."""
    preprocessing = {"resize": 256, "crop": 224, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
    query = {"preprocessing": json.dumps(preprocessing)}
    record = api.post("/v1/models", content=b"m", params=query)
    assert record["preprocessing"] == Preprocessing.parse(preprocessing).as_dict()
    assert api.client.get(f"/v1/models/{record['id']}").json() == record
    files = {
        "model": ("m", b"m"),
        "dataset": ("d", b"d"),
        "model_options": (None, json.dumps({**query, "preprocessing": preprocessing})),
        "dataset_options": (None, json.dumps({"padding": {"ids": 0}, "format": "parquet"})),
    }
    job = api.post("/v1/jobs", files=files)
    with api.registry.read() as unit:
        model, dataset = unit.models.get(job["model_id"]), unit.datasets.get(job["dataset_id"])
        assert model.options["preprocessing"] == record["preprocessing"]
        assert (dataset.options["padding"], dataset.options["format"]) == ({"ids": 0}, "parquet")
    for kind in ("parquet", "imagefolder", "npz", "csv"):
        assert api.post(f"/v1/datasets?format={kind}", content=b"d")["format"] == kind


def test_shares_of_splits_stand_in_the_records(api: Api) -> None:
    """Datasets and calibrators record their shares; a split that is not named has no share."""
    shares = {"calibration": 0.4, "guarantee": 0.2, "test": 0.4}
    query = {"split_shares": json.dumps(shares)}
    dataset = api.post("/v1/datasets", content=b"d", params=query)
    calibrator = api.post("/v1/calibrators", content=b"s", params={**query, "wait": 0})
    assert dataset["split_shares"] == calibrator["split_shares"] == {**shares, "train": 0.0}
    assert api.post("/v1/datasets", content=b"d")["split_shares"] is None


def test_a_job_echoes_its_order(api: Api) -> None:
    """Every field of a request stands in the record, as sent or with its default; of the webhook the address."""
    assert set(JobRequest.model_fields) <= set(JobRecord.model_fields)
    order = {
        "method": "focal",
        "hyperparameters": {**Hyperparameters().model_dump(), "epochs": 3, "alpha": 0.2},
        "seed": 7,
        "budget": {"minutes": 2.5, "candidates": 4},
        "expected_accuracy": 0.87,
        "gate": {"score": "nll", "confidence_level": 0.9, "max_accuracy_drop": 0.01, "max_recall_drop": 0.02},
        "max_cost_factor": 2.0,
        "publish_as": "digits",
        "publish_when": "always",
        "cancel_after": {"minutes": 5.0},
        "class_priors": {"a": 0.25, "b": 0.75},
        "accept_warnings": ["label_order"],
        "outputs": ["typicality"],
        "accelerator": "gpu",
        "metadata": {"team": "x"},
        "dry_run": True,
        **api.order(),
    }
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    webhook = {"url": "https://example.com/hook", "secret": secret}
    assert set(order) | {"webhook"} == set(JobRequest.model_fields)
    job = api.post("/v1/jobs", json={**order, "webhook": webhook})
    assert {name: job[name] for name in order} == order
    assert job["webhook"] == {"url": webhook["url"]}
    for path in (f"/v1/jobs/{job['id']}", "/v1/jobs", f"/v1/jobs/{job['id']}/events"):
        assert secret not in api.client.get(path).text
    plain = api.post("/v1/jobs", json=api.order())
    defaults = JobOptions().model_dump(mode="json")
    assert {name: plain[name] for name in defaults} == defaults


def test_dry_runs_are_marked(api: Api) -> None:
    """The query or the order's body makes a dry run, with or without files; it has no report, and says why."""
    body = api.order()
    files = {"model": ("m", b"m"), "dataset": ("d", b"d")}
    for query, request in (
        ("?dry_run=true", {"json": body}),
        ("", {"json": {**body, "dry_run": True}}),
        ("?dry_run=true", {"files": files}),
        ("?dry_run=true", {"files": {**files, "job": (None, '{"seed": 1}')}}),
        ("", {"files": {**files, "job": (None, '{"dry_run": true}')}}),
    ):
        job = api.post(f"/v1/jobs{query}", **request)
        assert (job["dry_run"], job["plan"], job["status"], job["verdict"]) == (True, None, "queued", None)
        with api.registry.read() as unit:
            assert unit.work.of(job["id"]).kind == "plan"
        refused = api.client.get(f"/v1/jobs/{job['id']}/report.html")
        assert (refused.status_code, refused.json()["code"]) == (409, "no_report")
        assert "dry run" in refused.json()["detail"]
    assert api.post("/v1/jobs?dry_run=false", json=body)["dry_run"] is False
    once = {"json": body, "headers": {"Idempotency-Key": "k"}}
    api.post("/v1/jobs", **once)
    assert api.client.post("/v1/jobs?dry_run=true", **once).status_code == 422, "a dry run is no training"


def test_bad_order_in_one_call_makes_nothing(api: Api) -> None:
    """If any part is wrong no record is made and no file kept."""
    for name, content in (
        ("job", '{"method": "magic"}'),
        ("job", "{"),
        ("job", "[]"),
        ("jobb", "{}"),
        ("dataset_options", '{"format": "xls"}'),
        ("model_options", '{"class_names": "a"}'),
    ):
        files = {"model": ("m", b"m"), "dataset": ("d", b"d"), name: (None, content)}
        answer = api.client.post("/v1/jobs", files=files)
        assert (answer.status_code, bool(answer.json()["errors"])) == (422, True), answer.text
    for kind in ("models", "datasets", "jobs"):
        assert api.client.get(f"/v1/{kind}").json() == {"data": [], "has_more": False, "next": None}
    assert [path for path in api.registry.artifacts.root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("kind", ["models", "datasets", "jobs", "batches"])
def test_lists_are_pages_newest_first(api: Api, kind: str) -> None:
    """Pages follow each other by `next`, newest first, until there is none."""
    body = api.order()
    bodies = {"jobs": body, "batches": {"model": body["model_id"], "dataset_id": body["dataset_id"]}}
    made = [
        api.post(f"/v1/{kind}", **({"json": bodies[kind]} if kind in bodies else {"content": b"x"}))["id"]
        for _ in range(5)
    ]
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = api.client.get(f"/v1/{kind}", params={"limit": 2, **after}).json()
        assert set(page) == {"data", "has_more", "next"}
        found += [record["id"] for record in page["data"]]
        assert page["has_more"] == (page["next"] is not None)
        if not page["has_more"]:
            break
        after = {"after": page["next"]}
    assert found[:5] == made[::-1]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("kind", ["models", "datasets", "jobs", "batches"])
def test_records_have_tags(api: Api, kind: str) -> None:
    """A client that already has the record gets 304 without a body; a changed record has another tag."""
    body = api.order()
    job = api.post("/v1/jobs", json=body)["id"]
    batch = api.post("/v1/batches", json={"model": body["model_id"], "dataset_id": body["dataset_id"]})["id"]
    record_id = {"models": body["model_id"], "datasets": body["dataset_id"], "jobs": job, "batches": batch}[kind]
    path = f"/v1/{kind}/{record_id}"
    tag = api.client.get(path).headers["etag"]
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = api.client.get(path, headers={"If-None-Match": given})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert api.client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    if kind == "jobs":
        api.client.post(f"{path}/cancel")
        changed = api.client.get(path, headers={"If-None-Match": tag})
        assert (changed.status_code, changed.json()["status"]) == (200, "cancelled")
        assert changed.headers["etag"] != tag


@pytest.mark.parametrize("kind", ["models", "datasets", "jobs", "uploads"])
def test_head_is_get_without_the_body(api: Api, kind: str) -> None:
    """HEAD of a record answers status, tag and length of its GET, and 304 where the tag matches; of no record, 404."""
    body = api.order()
    made = {
        "models": lambda: body["model_id"],
        "datasets": lambda: body["dataset_id"],
        "jobs": lambda: api.post("/v1/jobs", json=body)["id"],
        "uploads": lambda: api.post("/v1/uploads", json={"bytes": 5})["id"],
    }
    path = f"/v1/{kind}/{made[kind]()}"
    get, head = api.client.get(path), api.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert {name: head.headers[name] for name in ("etag", "content-length", "content-type")} == {
        name: get.headers[name] for name in ("etag", "content-length", "content-type")
    }
    assert api.client.head(path, headers={"If-None-Match": head.headers["etag"]}).status_code == 304
    assert api.client.head(f"/v1/{kind}/nothing").status_code == 404
    assert api.client.head(f"/v1/{kind}?limit=0").status_code == (405 if kind == "uploads" else 422)


def test_head_of_a_file_reads_none_of_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """HEAD of a model's file tells its length and tag without opening it; where there is no GET it is 405."""
    model = api.post("/v1/models", content=b"twelve bytes")
    monkeypatch.setattr("anyio.open_file", None)  # what answers a file with its content would call it
    head = api.client.head(f"/v1/models/{model['id']}/onnx")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "12", b"")
    assert head.headers["etag"] == f'"{model["sha256"]}"'
    assert api.client.head("/v1/jobs/job_x/cancel").status_code == 405


def test_cancelling_a_queued_job(api: Api) -> None:
    """A queued job is cancelled at once, and no worker begins it later."""
    job = api.post("/v1/jobs", json=api.order())
    cancelled = api.post(f"/v1/jobs/{job['id']}/cancel")
    assert (cancelled["status"], cancelled["attempts"]) == ("cancelled", 0)
    assert [line["status"] for line in cancelled["history"]] == ["queued", "cancelled"]
    api.work(job["id"])
    assert api.client.get(f"/v1/jobs/{job['id']}").json() == cancelled


def test_a_job_on_a_rejected_upload_fails(api: Api) -> None:
    """A job that waited for an upload which is then rejected fails with that reason, as the sender's error."""
    body = api.order()
    job = api.post("/v1/jobs", json=body)
    api.work(job["id"])
    waiting = api.client.get(f"/v1/jobs/{job['id']}").json()
    assert (waiting["status"], waiting["attempts"]) == ("queued", 0)
    api.work(body["dataset_id"])
    assert api.client.get(f"/v1/datasets/{body['dataset_id']}?wait=60").json()["status"] == "rejected"
    with api.registry.write() as unit:  # stands for the model's inspection, which would take seconds
        unit.models.reject(body["model_id"], {"code": "not_onnx", "message": "no model", "user_error": True})
    api.work(job["id"])
    failed = api.client.get(f"/v1/jobs/{job['id']}?wait=60").json()
    assert (failed["status"], failed["error"]["code"]) == ("failed", "model_rejected")
    assert "no model" in failed["error"]["message"]


def test_long_poll_returns_in_time(api: Api) -> None:
    """A poll on a record that stays open answers when its time is up."""
    record = api.post("/v1/datasets", content=b"x")
    answer = api.client.get(f"/v1/datasets/{record['id']}?wait=0.3")
    assert (answer.status_code, answer.json()["status"]) == (200, "inspecting")


def test_keys_are_asked_for(make_api: MakeApi) -> None:
    """With configured keys everything under `/v1` wants one of them; probes and documentation are open."""
    client = make_api(api_keys="first-of-two-keys-0123456789abcd, second-of-two-keys-0123456789abc").client
    for path in ("/v1/jobs", "/v1/models/mdl_x/predict", "/metrics", "/v1/nothing", "/nothing"):
        for value in (
            None,
            "Bearer",
            "Bearer ",
            "Bearer third",
            "Bearer first-of-two-keys-0123456789abc",
            "Basic first-of-two-keys-0123456789abcd",
            "first-of-two-keys-0123456789abcd",
        ):
            answer = client.get(path, headers={"Authorization": value} if value is not None else {})
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["x-request-id"]
    for value in (
        "Bearer first-of-two-keys-0123456789abcd",
        "bearer second-of-two-keys-0123456789abc",
        "Bearer  second-of-two-keys-0123456789abc ",
    ):
        for path in ("/v1/jobs", "/metrics"):
            assert client.get(path, headers={"Authorization": value}).status_code == 200
    assert client.post("/v1/datasets", content=b"x").status_code == 401
    assert [client.get(path).status_code for path in ("/healthz", "/docs")] == [200, 200]
    assert client.get("/readyz").status_code in (200, 503)


@pytest.mark.parametrize(
    ("host", "keys", "bound"),
    [
        ("0.0.0.0", "", "127.0.0.1"),
        ("::", "", "127.0.0.1"),
        ("192.0.2.7", "", "127.0.0.1"),
        ("example.org", "", "127.0.0.1"),
        ("127.0.0.5", "", "127.0.0.5"),
        ("::1", "", "::1"),
        ("localhost", "", "localhost"),
        ("0.0.0.0", "a-key-of-the-tests-0123456789abc", "0.0.0.0"),
        ("0.0.0.0", " , ", "127.0.0.1"),
    ],
)
def test_without_keys_only_loopback(host: str, keys: str, bound: str) -> None:
    """Without configured keys no other machine can reach the service, whatever host was asked for."""
    assert ServiceSettings(host=host, api_keys=keys).listen_host == bound


def test_documentation(api: Api) -> None:
    """The documentation is there, refers to nothing outside, stands in no frame, and is written once."""
    for path in ("/docs", "/redoc"):
        answer = api.client.get(path)
        assert answer.status_code == 200
        assert "cdn." not in answer.text
        assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
    answer = api.client.get("/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert (answer.headers["content-encoding"], answer.json()["openapi"]) == ("gzip", "3.1.0")
    assert api.client.get("/openapi.json", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert api.client.get("/openapi.json", headers={"Accept-Encoding": "identity"}).json() == answer.json()
    assert 'href="/docs"' in api.client.get("/").text


def test_openapi_snapshot(tmp_path: Path) -> None:
    """The snapshots in the repository are the application's own documents."""
    with TestClient(create_app(ServiceSettings(data_dir=tmp_path)).front, base_url="http://localhost") as client:
        for name, least in (("openapi.json", 40), ("openapi-v2.json", 15)):
            document = client.get(f"/{name}").json()
            assert json.loads((ROOT / "openapi" / name).read_text()) == document
            assert len([one["operationId"] for item in document["paths"].values() for one in item.values()]) > least


def test_evidence_runs_nothing_in_a_browser(api: Api) -> None:
    """Names in reports and diagrams are their sender's: no script runs, nothing is fetched, no type is guessed."""
    body = api.order()
    job = api.post("/v1/jobs", json=body)["id"]
    script = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    with stage_bytes(api.registry.artifacts, script) as staged, api.registry.write() as unit:
        row = unit.jobs.get(job)
        row.report_sha256 = row.page_sha256 = row.diagram_sha256 = staged.keep()
    for path in ("report", "report.html", "reliability.svg"):
        answer = api.client.get(f"/v1/jobs/{job}/{path}")
        assert (answer.status_code, answer.content) == (200, script)
        policy = {part.split()[0]: part.split()[1:] for part in answer.headers["content-security-policy"].split("; ")}
        assert policy["default-src"] == ["'none'"]
        assert "script-src" not in policy
        assert policy["style-src"] == ["'none'"]
        assert policy["sandbox"] == []
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = api.client.get(f"/v1/jobs/{job}/{path}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
    file = api.client.get(f"/v1/models/{body['model_id']}/onnx")
    assert file.headers["content-disposition"].startswith("attachment")
    assert file.headers["x-content-type-options"] == "nosniff"
    assert api.client.get("/docs").status_code == 200


def test_a_stored_page_is_styled_by_its_own_style_element_alone(api: Api) -> None:
    """The policy names the hash of the page's one style element and permits no other style, in it or in attributes."""
    job = api.ordered()
    page = b"<style>\nb { color: red }\n</style><b style='color: blue'>&lt;style&gt;</b>"
    with stage_bytes(api.registry.artifacts, page) as staged, api.registry.write() as unit:
        unit.jobs.get(job).page_sha256 = staged.keep()
    policy = api.client.get(f"/v1/jobs/{job}/report.html").headers["content-security-policy"]
    assert "style-src 'sha256-yGlZ2COO0fMfg35ueFMkXeTwfxqsIlQtrdC226cyFEQ=';" in policy


def test_a_job_waits_no_longer_than_it_may(api: Api) -> None:
    """A job that no worker has begun by `cancel_after` is cancelled by the API itself; one without it waits on."""
    waiting, patient = (api.ordered(**more) for more in ({"cancel_after": {"minutes": 1e-4}}, {}))
    until(lambda: api.client.get(f"/v1/jobs/{waiting}").json()["status"] == "cancelled", what="it has been cancelled")
    assert api.client.get(f"/v1/jobs/{patient}").json()["status"] == "queued"
    with api.registry.read() as unit:
        assert [event.data for event in unit.events.of_types(waiting, ["status"])][-1] == {"status": "cancelled"}
    assert api.client.post("/v1/jobs", json={**api.order(), "cancel_after": {"minutes": 0}}).status_code == 422
