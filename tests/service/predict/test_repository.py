"""A name means what the registry says: at once in the process that changed it or was notified, soon in others."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from service.predict.engine import scheduler
from service.predict.engine.session import OpenModel
from service.registry.errors import Unavailable
from service.registry.registry import Registry
from tests.helpers.api import Api
from tests.helpers.processes import until
from tests.helpers.publishing import publish
from tests.helpers.served import scaling


def published(api: Api, name: str, factor: float) -> str:
    """Make a model and publish it as the next version of `name`; returns its id."""
    return publish(api.registry, name, scaling(factor))


def asked(api: Api, name: str) -> Any:
    """The answer to a request for predictions."""
    return api.client.post(f"/v1/models/{name}/predict", json={"inputs": [[1.0, 0.0]]})


def answering(api: Api, name: str) -> str:
    """The id of the model that answers."""
    answer = asked(api, name)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"]["id"])


def opening_slowly(api: Api, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have files take a while to be opened."""
    quick = scheduler._warm

    def slow(*arguments: Any) -> OpenModel:
        time.sleep(seconds)
        return quick(*arguments)

    monkeypatch.setattr(scheduler, "_warm", slow)


def switched(api: Api, name: str, version: int) -> None:
    """Switch or roll back by one call."""
    answer = api.client.patch(f"/v1/names/{name}", json={"default_version": version})
    assert answer.status_code == 200, answer.text


def test_a_switch_holds_at_once_and_both_versions_stay_callable(api: Api) -> None:
    """The next request after a switch, or a rollback, is answered by the version it names; `/v2` calls either."""
    first, second = published(api, "digits", 1), published(api, "digits", 2)
    assert answering(api, "digits") == second
    for version, expected in ((1, first), (2, second), (1, first)):
        switched(api, "digits", version)
        assert answering(api, "digits") == expected
    body = {
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 0]}],
        "outputs": [{"name": "logits"}],
    }
    for version in (1, 2):
        found = api.client.post(f"/v2/models/digits/versions/{version}/infer", json=body).json()
        assert (found["model_version"], found["outputs"][0]["data"]) == (str(version), [version, 0])
    assert api.client.post("/v2/models/digits/infer", json=body).json()["model_version"] == "1"
    assert api.client.get("/v2/models/digits").json()["versions"] == ["1", "2"]


def test_no_request_is_dropped_while_versions_change(api: Api) -> None:
    """Clients that never stop asking see one version or the other, and nothing else, through thirty switches."""
    models = {published(api, "digits", factor) for factor in (1, 2)}
    stop, seen = threading.Event(), list[tuple[int, str]]()

    def ask() -> None:
        while not stop.is_set():
            answer = api.client.post("/v1/models/digits/predict", json={"inputs": [[1.0, 0.0]]})
            seen.append((answer.status_code, answer.json().get("model", {}).get("id", "")))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    for number in range(30):
        switched(api, "digits", number % 2 + 1)
    stop.set()
    for client in clients:
        client.join()
    assert {status for status, _ in seen} == {200}
    assert {model for _, model in seen} == models


def test_a_new_version_is_warm_before_it_is_sent_requests(api: Api) -> None:
    """A switch opens the version first: it is open when the call returns, before any request came."""
    first, _ = published(api, "digits", 1), published(api, "digits", 2)
    with api.registry.read() as unit:
        digest = unit.models.get(first).served_sha256
    assert digest is not None
    switched(api, "digits", 1)
    assert api.scheduler.models.opened(digest) is not None


def test_what_another_process_changes_is_seen_soon(api: Api) -> None:
    """A version that a worker publishes answers soon, the old one meanwhile; a name deleted elsewhere is soon gone."""
    first = published(api, "digits", 1)
    assert answering(api, "digits") == first
    other = Registry.open(api.settings)
    try:
        second = published(replace(api, registry=other), "digits", 2)
        until(lambda: answering(api, "digits") == second, what="the new version answers")
        with other.write() as unit:
            unit.names.delete("digits")
        until(lambda: asked(api, "digits").status_code == 404, what="the name is gone")
    finally:
        other.close()


def test_nobody_waits_for_a_version_that_is_being_opened(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a version that another process made the default is being opened, the old one answers everybody."""
    first = published(api, "digits", 1)
    assert answering(api, "digits") == first
    begun, go, quick = threading.Event(), threading.Event(), scheduler._warm

    def waiting(*arguments: Any) -> OpenModel:
        begun.set()
        go.wait(60)
        return quick(*arguments)

    monkeypatch.setattr(scheduler, "_warm", waiting)
    second = published(api, "digits", 2)
    while not begun.is_set():
        assert answering(api, "digits") == first
    assert {answering(api, "digits") for _ in range(5)} == {first}
    go.set()
    until(lambda: answering(api, "digits") == second, what="the new version answers")


def test_a_version_that_was_deleted_answers_nobody(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever deletes the old version while the new one is being opened is not answered by the old one."""
    first = published(api, "digits", 1)
    assert answering(api, "digits") == first
    opening_slowly(api, monkeypatch, 1.5)
    second = published(api, "digits", 2)
    assert api.client.delete("/v1/names/digits/versions/1").status_code == 204
    assert answering(api, "digits") == second


def test_one_file_of_two_models(api: Api) -> None:
    """Records of equal content: the one answers on when the other is deleted, also once its session is closed."""
    one, two = published(api, "one", 1), published(api, "two", 1)
    assert [answering(api, model) for model in (one, two)] == [one, two]
    assert api.client.delete("/v1/names/two").status_code == 204
    assert api.client.delete(f"/v1/models/{two}").status_code == 204
    for queue in api.scheduler.models.queues():
        api.scheduler.models.close(queue.digest)
    assert answering(api, one) == one


def test_a_name_answers_as_itself(api: Api) -> None:
    """Under a published name the answer has this name and the version behind it; under an id, those of the record."""
    published(api, "digits", 1)
    for called, expected in (("digits", ("digits", 2)), (published(api, "digits", 2), ("digits", 1))):
        answer = api.client.post(f"/v1/models/{called}/predict", json={"inputs": [[1.0, 0.0]]}).json()["model"]
        assert (answer["name"], answer["version"]) == expected


@pytest.mark.parametrize("version", ["99999999999999999999", "0", "-1", "x", "1.0", "01"])
def test_versions_that_cannot_be(api: Api, version: str) -> None:
    """404, whatever is there in place of a number."""
    published(api, "digits", 1)
    for path, method in (("infer", "POST"), ("ready", "GET"), ("config", "GET")):
        answer = api.client.request(method, f"/v2/models/digits/versions/{version}/{path}", json={})
        assert answer.status_code == 404, answer.text


def test_ready_means_open(api: Api) -> None:
    """A model that answers ready is open and warm; one whose file cannot be had is not ready."""
    published(api, "digits", 1)
    engine = api.scheduler
    assert len(engine.models) == 0
    assert api.client.get("/v2/models/digits/ready").json() == {"name": "digits", "ready": True}
    assert len(engine.models) == 1
    api.client.post("/v2/repository/models/digits/unload")
    assert api.client.get("/v2/models/digits/ready").status_code == 503


def test_unloading_a_name_leaves_others_their_session(api: Api) -> None:
    """Two names of one file: what is unloaded under the one stays open for the other."""
    published(api, "one", 1)
    published(api, "two", 1)
    for name in ("one", "two"):
        answering(api, name)
    engine = api.scheduler
    assert len(engine.models) == 1
    api.client.post("/v2/repository/models/one/unload")
    time.sleep(1.1)  # models that nothing means are closed once a second
    assert len(engine.models) == 1
    api.client.post("/v2/repository/models/two/unload")
    until(lambda: len(engine.models) == 0, what="it is closed")


@pytest.mark.parametrize(("path", "shown"), [("names", {"default_version": 2}), ("models", {"origin": "uploaded"})])
def test_who_was_told_of_a_version_is_answered_by_it(
    api: Api, monkeypatch: pytest.MonkeyPatch, path: str, shown: dict[str, Any]
) -> None:
    """After `GET` of a name or its model has shown a new version, however slowly it opens, the next request has it."""
    first = published(api, "digits", 1)
    assert answering(api, "digits") == first
    opening_slowly(api, monkeypatch, 0.5)
    second = published(api, "digits", 2)
    record = api.client.get(f"/v1/{path}/digits").json()
    assert shown.items() <= record.items()
    assert path == "names" or record["id"] == second
    assert answering(api, "digits") == second


def test_serving_goes_on_without_the_database(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that were asked for before still answer; others are 503, with when to try again."""
    known = published(api, "digits", 1)
    other = publish(api.registry, "other", scaling(2), named=False)  # a name's model is opened ahead of its requests
    assert answering(api, "digits") == known

    def away() -> Any:
        raise Unavailable("database_unavailable", "the database is away")

    monkeypatch.setattr(api.registry, "read", away)
    deadline = time.monotonic() + 1.5  # beyond the time that an entry may be used unasked
    while time.monotonic() < deadline:
        assert answering(api, "digits") == known
        time.sleep(0.05)
    refused = api.client.post(f"/v1/models/{other}/predict", json={"inputs": [[1.0, 0.0]]})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")


def test_a_deleted_model_answers_nobody(api: Api) -> None:
    """The request after a deletion is 404; so is one for a name that never was."""
    model = published(api, "digits", 1)
    assert api.client.delete("/v1/names/digits").status_code == 204
    assert answering(api, model) == model
    assert api.client.delete(f"/v1/models/{model}").status_code == 204
    for path in (f"/v1/models/{model}/predict", "/v1/models/nothing/predict"):
        answer = api.client.post(path, json={"inputs": [[1.0, 0.0]]})
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_model")


def test_names_are_unloaded_whole(api: Api) -> None:
    """An unloaded name answers with none of its versions; the models themselves, by id, still do."""
    model = published(api, "digits", 1)
    assert answering(api, "digits") == model
    assert api.client.post("/v2/repository/models/digits/unload").status_code == 200
    for path in ("/v2/models/digits/infer", "/v2/models/digits/versions/1/infer"):
        assert api.client.post(path, json={}).status_code == 503
    assert answering(api, model) == model
    assert api.client.post("/v2/repository/models/digits/load").status_code == 200
    assert answering(api, "digits") == model
