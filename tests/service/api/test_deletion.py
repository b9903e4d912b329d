"""Names, their versions and jobs can be deleted: what is needed stays, what was begun ends, and the rest is gone."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from service.predict.engine.session import OpenModel
from service.registry import tables
from service.registry.errors import NotFound
from service.registry.repositories.keys import IdempotencyKeys
from service.registry.settings import WorkerSettings
from service.registry.tables import new_id, now
from tests.helpers.api import Api, Json
from tests.helpers.problems import problem
from tests.helpers.publishing import publish
from tests.helpers.served import scaling
from tests.helpers.staging import stage_bytes
from worker.outside.recovery import run_cleanup

BODY = {"inputs": [[1.0, 0.0]]}


def asked(api: Api, called: str, body: Json = BODY) -> Any:
    """The answer to a request for predictions."""
    return api.client.post(f"/v1/models/{called}/predict", json=body)


def test_a_published_model_can_be_deleted_after_its_name(api: Api) -> None:
    """The name goes with all versions; models answer under their ids until they are deleted themselves."""
    models = [publish(api.registry, "digits", scaling(factor)) for factor in (1, 2)]
    assert asked(api, "digits").json()["model"]["id"] == models[1]
    assert "DELETE /v1/names/digits" in problem(api.client.delete(f"/v1/models/{models[0]}"), 409, "in_use")["detail"]
    assert api.client.delete("/v1/names/digits").status_code == 204
    for answer in (
        asked(api, "digits"),
        api.client.get("/v1/names/digits"),
        api.client.get("/v1/models/digits"),
        api.client.delete("/v1/names/digits"),
        api.client.patch("/v1/names/digits", json={"default_version": 1}),
    ):
        problem(answer, 404)
    assert api.client.get("/v1/names").json()["data"] == []
    assert api.client.get("/v2/models/digits").status_code == 404
    for model_id in models:
        assert asked(api, model_id).status_code == 200
        assert api.client.delete(f"/v1/models/{model_id}").status_code == 204
        problem(asked(api, model_id), 404)


def test_a_deleted_name_begins_anew(api: Api) -> None:
    """Whoever publishes under it next has version 1, no priors and a name that is in service."""
    publish(api.registry, "digits", scaling(1))
    publish(api.registry, "digits", scaling(2))
    assert api.client.post("/v2/repository/models/digits/unload").status_code == 200
    assert api.client.delete("/v1/names/digits").status_code == 204
    third = publish(api.registry, "digits", scaling(3))
    assert api.client.get("/v1/names/digits").json()["versions"] == {"1": third}
    assert asked(api, "digits").json()["model"]["version"] == 1


def test_requests_that_came_before_are_answered(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is computed while the name and then its model are deleted is answered; the next is 404."""
    model_id = publish(api.registry, "slow", scaling(1))
    assert asked(api, "slow").status_code == 200
    computing, deleted = threading.Event(), threading.Event()
    run = OpenModel.run

    def held(*arguments: Any) -> Any:
        computing.set()
        assert deleted.wait(60)
        return run(*arguments)

    monkeypatch.setattr(OpenModel, "run", held)
    monkeypatch.setattr(OpenModel, "quick", lambda *_: False)  # in a thread, as what takes long is
    answers: list[Any] = []
    slow = threading.Thread(target=lambda: answers.append(asked(api, "slow")))
    slow.start()
    assert computing.wait(60)
    assert api.client.delete("/v1/names/slow").status_code == 204
    assert api.client.delete(f"/v1/models/{model_id}").status_code == 204
    problem(asked(api, "slow"), 404, "unknown_model")
    deleted.set()
    slow.join()
    assert answers[0].status_code == 200
    assert answers[0].json()["model"]["id"] == model_id


def test_a_single_version(api: Api) -> None:
    """Any but the one that answers can be deleted; its number is never given again, and its model is free."""
    models = [publish(api.registry, "digits", scaling(factor)) for factor in (1, 2, 3)]
    refused = problem(api.client.delete("/v1/names/digits/versions/3"), 409, "default_version")
    assert "switch to another first (1, 2)" in refused["detail"]
    assert api.client.get("/v1/names/digits/versions/3").json()["id"] == models[2]
    assert api.client.patch("/v1/names/digits", json={"default_version": 1}).status_code == 200
    for version in (2, 3):
        assert api.client.delete(f"/v1/names/digits/versions/{version}").status_code == 204
        problem(api.client.get(f"/v1/names/digits/versions/{version}"), 404, "unknown_version")
        problem(api.client.delete(f"/v1/names/digits/versions/{version}"), 404, "unknown_version")
    assert api.client.delete(f"/v1/models/{models[2]}").status_code == 204
    assert asked(api, "digits").json()["model"]["id"] == models[0]
    refused = problem(api.client.delete("/v1/names/digits/versions/1"), 409, "default_version")
    assert "DELETE /v1/names/digits" in refused["detail"]
    newest = publish(api.registry, "digits", scaling(4))
    assert api.client.get("/v1/names/digits").json()["versions"] == {"1": models[0], "4": newest}
    problem(api.client.delete("/v1/names/nobody/versions/1"), 404, "unknown_name")
    for version in ("0", "01", "x", "-1", "9" * 30):
        for method in ("GET", "DELETE"):
            problem(api.client.request(method, f"/v1/names/digits/versions/{version}"), 404, "unknown_version")


def test_a_model_is_found_by_its_name(api: Api) -> None:
    """Wherever predict takes a name, GET does: the record of the version that answers, and its file."""
    first, second = (publish(api.registry, "digits", scaling(factor)) for factor in (1, 2))
    record = api.client.get("/v1/models/digits")
    assert record.json() == api.client.get(f"/v1/models/{second}").json()
    assert record.headers["etag"] == api.client.get(f"/v1/models/{second}").headers["etag"]
    assert api.client.get("/v1/models/digits", headers={"If-None-Match": record.headers["etag"]}).status_code == 304
    assert api.client.get("/v1/models/digits/onnx").content == scaling(2)
    problem(api.client.get("/v1/models/digits/onnx?class_priors=input"), 422, "no_class_shares")
    assert api.client.get("/v1/models/digits?wait=60").json()["id"] == second
    assert api.client.patch("/v1/names/digits", json={"default_version": 1}).status_code == 200
    assert api.client.get("/v1/models/digits").json()["id"] == first
    assert api.client.get("/v1/models/digits/onnx").content == scaling(1)
    problem(api.client.get("/v1/models/nobody"), 404, "unknown_model")
    assert "DELETE /v1/names/digits" in problem(api.client.delete("/v1/models/digits"), 404, "unknown_model")["detail"]


def ended(api: Api, **order: Any) -> str:
    """A job that ended as a worker would end it, with a report, an event and an entry in the ledger; its id."""
    model = api.post("/v1/models", content=b"m")
    dataset = api.post("/v1/datasets", content=b"rows")
    job_id: str = api.post("/v1/jobs", json={"model_id": model["id"], "dataset_id": dataset["id"], **order})["id"]
    with stage_bytes(api.registry.artifacts, b'{"verdict": "trained"}') as staged:
        staged.seal()
        with api.registry.write() as unit:
            assert unit.work.withdraw(job_id)
            row = unit.jobs.get(job_id)
            unit.jobs.change_status(row, "running")
            unit.ledger.enter(dataset["sha256"], job_id)
            row.report_sha256, row.verdict = staged.keep(), "trained"
            parent = unit.models.get(model["id"])
            made = tables.Model(
                id=new_id("mdl"), name="made", status="ready", origin="calibrated", bytes=1, sha256=parent.sha256,
                options={}, profile=None, calibrated=True, job_id=job_id, parent_id=model["id"],
            )  # fmt: skip
            row.calibrated_model_id = unit.models.add(made).id
            unit.jobs.change_status(row, "succeeded")
    return job_id


def test_a_job_goes_with_all_that_is_its_own(api: Api) -> None:
    """Report, events and messages go; its model stays and says which job it was; its look at test rows counts."""
    webhook = {"url": "https://example.com/hook", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    job_id = ended(api, webhook=webhook, metadata={"team": "x"})
    job = api.client.get(f"/v1/jobs/{job_id}").json()
    made, dataset = job["calibrated_model_id"], api.client.get(f"/v1/datasets/{job['dataset_id']}").json()
    assert api.client.get(f"/v1/models/{made}").json()["report_url"] == f"/v1/jobs/{job_id}/report"
    with api.registry.read() as unit:
        report = unit.jobs.get(job_id).report_sha256
        (message,) = unit.deliveries.of_job(job_id, limit=2, after=None)
    assert report is not None
    assert api.registry.artifacts.path(report).exists()
    assert api.client.delete(f"/v1/jobs/{job_id}").status_code == 204
    for path in ("", "/events", "/report", "/report.html", "/deliveries"):
        problem(api.client.get(f"/v1/jobs/{job_id}{path}"), 404)
    problem(api.client.delete(f"/v1/jobs/{job_id}"), 404, "unknown_job")
    problem(api.client.post(f"/v1/jobs/{job_id}/cancel"), 404)
    record = api.client.get(f"/v1/models/{made}").json()
    assert (record["job_id"], record["report_url"], record["status"]) == (job_id, None, "ready")
    with api.registry.read() as unit:
        assert unit.ledger.evaluations(dataset["sha256"]) == 1
        assert not unit.jobs.is_referenced(report)
        assert unit.events.last(job_id) == 0
        assert unit.deliveries.find(message.id) is None
        assert unit.session.get(tables.Work, message.id) is None
    assert api.client.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
    assert api.client.delete(f"/v1/models/{made}").status_code == 204


def test_what_is_kept_no_longer_goes_as_if_it_were_deleted(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old jobs and results go with their files; models, names, the ledger and jobs that still have a message stay."""
    webhook = {"url": "https://example.com/hook", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    old, told, fresh = ended(api), ended(api, webhook=webhook), ended(api)
    served = publish(api.registry, "digits", scaling(1))
    batches = [predicted(api, served) for _ in range(2)]
    jobs = [api.client.get(f"/v1/jobs/{job_id}").json() for job_id in (old, told, fresh)]
    with api.registry.write() as unit:
        results = str(unit.batches.get(batches[0]).results_sha256)
        unit.jobs.get(old).finished_at = unit.jobs.get(told).finished_at = unit.now() - timedelta(days=31)
        unit.jobs.get(fresh).finished_at = unit.now() - timedelta(days=29)
        unit.batches.get(batches[0]).finished_at = unit.now() - timedelta(days=8)
        (message,) = unit.deliveries.of_job(told, limit=2, after=None)

    def swept(**kept: float) -> list[str]:
        stopping = threading.Event()
        monkeypatch.setattr(IdempotencyKeys, "forget_old", lambda _: stopping.set())  # it comes last
        run_cleanup(api.registry, WorkerSettings(data_dir=api.settings.data_dir, sweep_seconds=1e-3, **kept), stopping)
        paths = [*(f"jobs/{job_id}" for job_id in (old, told, fresh)), *(f"batches/{one}" for one in batches)]
        answers = [api.client.get(f"/v1/{path}") for path in paths]
        return [path for path, answer in zip(paths, answers, strict=True) if answer.status_code == 404]

    assert swept() == []
    assert swept(keep_jobs_days=30, keep_results_days=7) == [f"jobs/{old}", f"batches/{batches[0]}"]
    with api.registry.read() as unit:
        assert unit.ledger.evaluations(unit.datasets.get(jobs[0]["dataset_id"]).sha256) == 3
    with pytest.raises(NotFound):
        api.registry.artifacts.path(results)
    record = api.client.get(f"/v1/models/{jobs[0]['calibrated_model_id']}").json()
    assert (record["job_id"], record["report_url"], record["status"]) == (old, None, "ready")
    assert asked(api, "digits").status_code == 200
    with api.registry.write() as unit:
        unit.deliveries.get(message.id).status = "failed"
    assert swept(keep_jobs_days=30, keep_results_days=7) == [f"jobs/{old}", f"jobs/{told}", f"batches/{batches[0]}"]


def predicted(api: Api, model_id: str) -> str:
    """A batch prediction that has ended, with a result of its own; its id."""
    row = tables.Batch(
        id=new_id("bat"), model_id=model_id, dataset_id=new_id("ds"), status="running", progress={}, options={},
        created_at=now(),
    )  # fmt: skip
    with stage_bytes(api.registry.artifacts, row.id.encode()) as staged, api.registry.write() as unit:
        unit.batches.add(row)
        unit.work.open(row.id)
        unit.work.withdraw(row.id)
        row.results_sha256 = staged.keep()
        unit.batches.change_status(row, "succeeded")
    return row.id


def test_a_job_that_has_not_ended_stays(api: Api) -> None:
    """409 with its status while it waits, runs or is being cancelled; nothing of it is lost."""
    job_id = api.ordered()
    for status in ("queued", "running", "cancelling"):
        with api.registry.write() as unit:
            unit.jobs.get(job_id).status = status
        answer = api.client.delete(f"/v1/jobs/{job_id}")
        assert status in problem(answer, 409, "not_finished")["detail"]
        assert answer.headers["retry-after"]
    assert api.client.get(f"/v1/jobs/{job_id}").json()["status"] == "cancelling"
    assert len(api.client.get(f"/v1/jobs/{job_id}/events").json()["data"]) == 1


def test_a_version_is_chosen_instead_of_the_one_that_was_seen(api: Api) -> None:
    """Where another answers by now, 409 `default_changed`, and nothing is changed."""
    for factor in (1, 2, 3):
        publish(api.registry, "digits", scaling(factor))
    refused = problem(api.client.patch("/v1/names/digits", json={"default_version": 1, "instead_of": 2}), 409)
    assert (refused["code"], "version 3" in refused["detail"]) == ("default_changed", True)
    assert api.client.get("/v1/names/digits").json()["default_version"] == 3
    chosen = api.client.patch("/v1/names/digits", json={"default_version": 1, "instead_of": 3})
    assert (chosen.status_code, chosen.json()["default_version"]) == (200, 1)
