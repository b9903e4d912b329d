"""The pages of models and names: what they show is what the API answers, and what they change it changes."""

from __future__ import annotations

from html import unescape

import pytest
from markupsafe import escape

from service.web import models, new_job
from tests.helpers.api import Api
from tests.helpers.publishing import publish
from tests.helpers.served import scaling
from tests.helpers.uploads import Uploads
from tests.helpers.work import add_worker

HOSTILE = '<script>alert("1")</script>\'&'
PAGE = {"Accept": "text/html"}


def page_of(api: Api, path: str, status: int = 200) -> str:
    """A page as a browser is sent it."""
    answer = api.client.get(path, headers=PAGE)
    assert answer.status_code == status, answer.text
    return answer.text


def sent(api: Api, path: str, **fields: object) -> tuple[int, str]:
    """A form as a browser sends it: the status of its answer, and the page or the path that it leads to."""
    answer = api.client.post(path, data=fields, headers=PAGE, follow_redirects=False)
    return answer.status_code, answer.headers.get("location") or answer.text


def test_empty_lists_say_what_to_do(api: Api) -> None:
    """Without a model or name the lists say so and lead on; a filter that nothing passes is something else."""
    assert "There is no model yet" in page_of(api, "/models")
    assert "Nothing is published yet" in page_of(api, "/names")
    assert "Nobody has sent rows yet" in page_of(api, "/datasets")
    publish(api.registry, "digits", scaling(1))
    assert "No model is like that" in page_of(api, "/models?name=letters")
    assert "No model is like that" in page_of(api, "/models?origin=calibrated")
    assert "/models/mdl_" in page_of(api, "/models?name=digits&origin=uploaded&after=")
    page_of(api, "/models?origin=bought", 422)
    page_of(api, "/models?after=there", 422)


def test_long_lists_are_paged(api: Api) -> None:
    """A page has 25 rows; the next one begins where it ended, and keeps the filter."""
    models = [publish(api.registry, f"name-{number:02}", scaling(1)) for number in range(27)]
    first = page_of(api, "/models?origin=uploaded")
    assert [model in first for model in models] == [False] * 2 + [True] * 25
    second = page_of(api, f"/models?origin=uploaded&after={models[2]}")
    assert f'href="/models?origin=uploaded&amp;after={models[2]}"' in first
    assert [model in second for model in models] == [True] * 2 + [False] * 25
    assert 'href="/names?after=name-24"' in page_of(api, "/names")
    assert "name-26" in page_of(api, "/names?after=name-24")


def test_names_that_others_chose_are_text(api: Api) -> None:
    """A model, its classes and inputs may be called anything: a page shows it, escaped, however long it is."""
    names = [HOSTILE, "x" * 9_000]
    inputs = [{"name": HOSTILE, "dtype": "float32", "shape": ["N", 2]}]
    model = publish(api.registry, "hostile", scaling(1), class_names=names, inputs=inputs, columns=[HOSTILE, "b"])
    for path in (f"/models/{model}", "/names/hostile", "/models", "/names"):
        assert "<script>alert" not in page_of(api, path)
    assert str(escape(HOSTILE)) in page_of(api, f"/models/{model}")
    assert HOSTILE not in page_of(api, f"/models?name={'%3Cscript%3Ealert(%221%22)%3C/script%3E%27&amp;'}")
    for path in ("/models/%3Cscript%3E", "/names/%3Cscript%3E", f"/models/{'x' * 10_000}", "/names/a%00b"):
        assert "<script>&" not in page_of(api, path, 404)


def test_a_model_is_found_by_id_and_by_name(api: Api) -> None:
    """Both lead to the same page, which says where the model answers."""
    old, new = (publish(api.registry, "digits", scaling(factor)) for factor in (1, 2))
    assert new in page_of(api, "/models/digits")
    assert "version 2, which answers" in page_of(api, f"/models/{new}")
    assert "version 1" in page_of(api, f"/models/{old}")


def test_a_page_names_the_provider_of_an_open_model(api: Api) -> None:
    """Once it has answered, a model's page says what it runs on."""
    publish(api.registry, "digits", scaling(1))
    assert "Runs on" not in page_of(api, "/models/digits")
    assert api.client.post("/v1/models/digits/predict", json={"inputs": [[1.0, 0.0]]}).status_code == 200
    assert "<dt>Runs on</dt><dd><code>CPUExecutionProvider</code></dd>" in page_of(api, "/models/digits")


def test_what_is_published_is_not_deleted(api: Api) -> None:
    """The refusal is the API's, shown on the model's page; without the name the model goes."""
    model = publish(api.registry, "digits", scaling(1))
    status, text = sent(api, f"/models/{model}/delete")
    assert status == 409
    assert "is published as" in text
    api.client.delete("/v1/names/digits")
    assert sent(api, f"/models/{model}/delete") == (303, "/models")
    page_of(api, f"/models/{model}", 404)


def test_a_version_is_chosen_after_a_look_at_what_changes(api: Api) -> None:
    """The confirmation names both models; the answer of the API changes with the form and not before."""
    old, new = (publish(api.registry, "digits", scaling(factor)) for factor in (1, 2))
    asked = page_of(api, "/names/digits?switch_to=1")
    assert "instead of version 2" in asked
    assert "Roll back to version 1?" in asked
    assert api.client.get("/v1/names/digits").json()["default_version"] == 2
    assert old in asked
    assert new in asked
    assert sent(api, "/names/digits", version=1, instead_of=2) == (303, "/names/digits")
    assert api.client.get("/v1/names/digits").json()["default_version"] == 1
    assert "answers already" in page_of(api, "/names/digits?switch_to=1")
    assert "Promote" in page_of(api, "/names/digits")


def test_what_a_colleague_chose_meanwhile_is_not_overwritten(api: Api) -> None:
    """The form says which version its user has seen; where another answers by now, nothing is changed."""
    for factor in (1, 2, 3):
        publish(api.registry, "digits", scaling(factor))
    status, text = sent(api, "/names/digits", version=1, instead_of=2)
    assert status == 409
    assert "answers by now, not 2; nothing was changed" in text
    assert "instead of version 3" in text
    assert api.client.get("/v1/names/digits").json()["default_version"] == 3


def test_versions_that_are_not_there(api: Api) -> None:
    """Versions that do not exist are refused in a sentence, asked for or sent."""
    publish(api.registry, "digits", scaling(1))
    assert "has the versions 1, not 7" in page_of(api, "/names/digits?switch_to=7", 404)
    for query in ("switch_to", "below"):
        page_of(api, f"/names/digits?{query}={10**20}", 422)
    status, text = sent(api, "/names/digits", version=7, instead_of=1)
    assert status == 422
    assert "has the versions 1, not 7" in text
    assert sent(api, "/names/letters", version=7, instead_of=1)[0] == 404


def test_a_dataset_in_use_stays(api: Api, uploads: Uploads) -> None:
    """The page of a dataset says who needs it; once nobody does, it goes."""
    model = api.post("/v1/models", content=uploads["digits.onnx"])["id"]
    dataset = api.post("/v1/datasets?name=rows", content=uploads["digits.npz"])["id"]
    assert "Inspection opens the dataset" in api.client.get(f"/datasets/{dataset}", headers=PAGE).text
    job = api.post("/v1/jobs", json={"model_id": model, "dataset_id": dataset})["id"]
    refused = api.client.post(f"/datasets/{dataset}/delete", headers=PAGE)
    assert refused.status_code == 409
    assert f"is needed by {job}" in unescape(refused.text)
    api.client.post(f"/v1/jobs/{job}/cancel")
    deleted = api.client.post(f"/datasets/{dataset}/delete", headers=PAGE, follow_redirects=False)
    assert (deleted.status_code, deleted.headers["location"]) == (303, "/datasets")
    assert api.client.get(f"/datasets/{dataset}", headers=PAGE).status_code == 404


NOBODY = "No worker takes this yet; there is none that inspects uploads."


@pytest.fixture
def records(api: Api) -> dict[str, str]:
    """The ids of a model and a dataset that nobody inspects, and of a check of the two."""
    ids = {kind: str(api.post(f"/v1/{kind}s", content=b"x")["id"]) for kind in ("model", "dataset")}
    body = {f"{kind}_id": record_id for kind, record_id in ids.items()}
    return {**ids, "check": api.post("/v1/jobs?dry_run=true", json=body)["id"]}


def test_pages_say_what_keeps_their_records(api: Api, records: dict[str, str]) -> None:
    """Pages of a job, a model and a dataset, and each card of a new job, say what they wait for without a worker."""
    address = "&".join(f"{name}={record_id}" for name, record_id in records.items())
    paths = {f"/jobs/{records['check']}": 1, f"/models/{records['model']}": 1, f"/datasets/{records['dataset']}": 1}
    paths |= {f"/new?{address}": 2}
    for times in (1, 0):
        found = {path: unescape(api.client.get(path, headers=PAGE).text).count(NOBODY) for path in paths}
        assert found == {path: times * number for path, number in paths.items()}
        add_worker(api.registry, "w", "inspect")


def test_a_part_is_drawn_when_what_it_tells_has_changed(
    api: Api, records: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part is drawn once where no worker takes it, and once more where one does; a mere wait draws nothing."""
    for module in (models, new_job):
        monkeypatch.setattr(module, "WAIT_S", 0.0)
    paths = [f"/datasets/{records['dataset']}/findings?", f"/new/model?model={records['model']}"]
    for path in paths:
        part = api.client.get(path, headers=PAGE)
        assert (part.status_code, NOBODY in part.text, "told=true" in part.text) == (200, True, True)
    add_worker(api.registry, "w", "inspect")
    for path in paths:
        part = api.client.get(f"{path}&told=true", headers=PAGE)
        assert (part.status_code, NOBODY in part.text, "told=true" in part.text) == (200, False, False)
        assert api.client.get(path, headers=PAGE).status_code == 204
