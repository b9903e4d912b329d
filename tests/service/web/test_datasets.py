"""Pages of datasets: the list, one of them, and its end."""

from __future__ import annotations

from html import unescape

from tests.helpers.api import Api
from tests.helpers.uploads import Uploads

BROWSER = {"Accept": "text/html"}


def test_an_empty_list_says_what_to_do(api: Api) -> None:
    """There is a way to the first one."""
    assert "Nobody has sent rows yet" in api.client.get("/datasets", headers=BROWSER).text


def test_a_long_list_has_pages(api: Api) -> None:
    """Twenty-five a page, newest first, and a way to the older ones and back."""
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
    """Its page says who needs it; once nobody does, it goes."""
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
