"""The pages of batch predictions, as a browser without scripts goes: what waits, what came, and why nothing did."""

from __future__ import annotations

import re
from html import unescape

from tests.helpers.api import Api
from tests.helpers.uploads import Uploads, digits, digits_npz

PAGE = {"Accept": "text/html"}


def words(api: Api, path: str) -> str:
    """The text of a page as a reader sees it."""
    answer = api.client.get(path, headers=PAGE)
    assert answer.status_code == 200, answer.text
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())


def test_a_batch_from_its_queue_to_its_files(api: Api, uploads: Uploads) -> None:
    """The list leads to a page that says where the batch stands, shows the API's answers, and deletes it."""
    assert "Nobody has asked for a batch yet" in words(api, "/batches")
    model = api.post("/v1/models?name=digits", content=uploads["digits.onnx"])["id"]
    dataset = api.post("/v1/datasets?name=rows", content=uploads["digits.npz"])["id"]
    batch = api.post("/v1/batches", json={"model": model, "dataset_id": dataset})["id"]
    path = f"/batches/{batch}"
    assert f'href="{path}"' in api.client.get("/batches", headers=PAGE).text
    assert "No worker takes this yet" in words(api, path)
    assert "it can be deleted once it has ended" in api.client.post(f"{path}/delete", headers=PAGE).text
    for record_id in (model, dataset, batch):
        api.work(record_id)
    first = api.client.get(f"/v1{path}/results?limit=1").json()["data"][0]
    page = words(api, path)
    assert "1,797 rows answered." in page
    assert f"0 {first['label']} {100 * first['confidence']:.1f} %" in page
    assert f'href="/session/v1{path}/results?format=csv"' in api.client.get(path, headers=PAGE).text
    part = api.client.get(path, headers={**PAGE, "HX-Request": "true"}).text
    assert ("1,797 rows answered." in part, "<html" in part, "hx-get" in part) == (True, False, False)
    assert "Predictions of digits Model digits" in page
    gone = api.client.post(f"{path}/delete", headers=PAGE, follow_redirects=False)
    assert (gone.status_code, gone.headers["location"]) == (303, "/batches")
    assert api.client.get(path, headers=PAGE).status_code == 404


def test_a_failed_batch_says_why(api: Api, uploads: Uploads) -> None:
    """A failure has its code, what that stands for, and what to do."""
    model = api.post("/v1/models", content=uploads["digits.onnx"])["id"]
    dataset = api.post("/v1/datasets", content=digits_npz(x=digits()[0][:, :2]))["id"]
    batch = api.post("/v1/batches", json={"model": model, "dataset_id": dataset})["id"]
    for record_id in (model, dataset, batch):
        api.work(record_id)
    page = words(api, f"/batches/{batch}")
    assert "The inputs of model and dataset differ." in page
    assert "Code inputs_mismatch . Correct the dataset or the request and send it again." in page
    assert "inputs_mismatch" in words(api, "/batches")
