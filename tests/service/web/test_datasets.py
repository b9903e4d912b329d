"""Pages of datasets: the list, one of them, and its end; and pages on which somebody waits, which say what for."""

from __future__ import annotations

from html import unescape

import pytest

from service.web import models, new_job
from tests.helpers.api import Api
from tests.helpers.uploads import Uploads
from tests.helpers.work import add_worker

BROWSER = {"Accept": "text/html"}


def test_a_long_list_has_pages(api: Api) -> None:
    """Twenty-five a page, newest first, and a way to the older ones and back; an empty one says what to do."""
    assert "Nobody has sent rows yet" in api.client.get("/datasets", headers=BROWSER).text
    ids = [api.post("/v1/datasets?name=rows", content=b"label,a\n0,1\n")["id"] for _ in range(27)]
    first = api.client.get("/datasets", headers=BROWSER).text
    assert ids[26] in first
    assert ids[1] not in first
    older = f"/datasets?after={ids[2]}"
    assert f'href="{older}"' in first
    second = api.client.get(older, headers=BROWSER).text
    assert ids[1] in second
    assert ids[2] not in second
    assert 'href="/datasets" rel="prev"' in second


def test_a_dataset_in_use_stays(api: Api, uploads: Uploads) -> None:
    """The page of a dataset says who needs it; once nobody does, it goes."""
    model = api.post("/v1/models", content=uploads["digits.onnx"])["id"]
    dataset = api.post("/v1/datasets?name=rows", content=uploads["digits.npz"])["id"]
    assert "Inspection opens the dataset" in api.client.get(f"/datasets/{dataset}", headers=BROWSER).text
    job = api.post("/v1/jobs", json={"model_id": model, "dataset_id": dataset})["id"]
    refused = api.client.post(f"/datasets/{dataset}/delete", headers=BROWSER)
    assert refused.status_code == 409
    assert f"is needed by {job}" in unescape(refused.text)
    api.client.post(f"/v1/jobs/{job}/cancel")
    deleted = api.client.post(f"/datasets/{dataset}/delete", headers=BROWSER, follow_redirects=False)
    assert (deleted.status_code, deleted.headers["location"]) == (303, "/datasets")
    assert api.client.get(f"/datasets/{dataset}", headers=BROWSER).status_code == 404


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
        found = {path: unescape(api.client.get(path, headers=BROWSER).text).count(NOBODY) for path in paths}
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
        part = api.client.get(path, headers=BROWSER)
        assert (part.status_code, NOBODY in part.text, "told=true" in part.text) == (200, True, True)
    add_worker(api.registry, "w", "inspect")
    for path in paths:
        part = api.client.get(f"{path}&told=true", headers=BROWSER)
        assert (part.status_code, NOBODY in part.text, "told=true" in part.text) == (200, False, False)
        assert api.client.get(path, headers=BROWSER).status_code == 204
