"""`/v1/batches` over HTTP: a worker's results by pages and as a file, compared with ONNX Runtime alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest

from tests.helpers.api import Api, Json, open_api
from tests.helpers.uploads import Uploads, digits, npz

pytestmark = pytest.mark.slow

PARQUET = {"Accept": "application/vnd.apache.parquet"}


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory, uploads: Uploads) -> Iterator[tuple[Api, str]]:
    """A batch over the digits that a worker's child has run in an API's folder, and its path; tests only ask it."""
    with ExitStack() as stack:
        api = open_api(tmp_path_factory.mktemp("batches") / "data", stack)
        model = api.post("/v1/models", content=uploads["digits.onnx"])["id"]
        dataset = api.post("/v1/datasets", content=uploads["digits.npz"])["id"]
        ordered = api.post("/v1/batches", json={"model": model, "dataset_id": dataset, "top_k": 2})["id"]
        for record_id in (model, dataset, ordered):
            api.work(record_id)
        record = api.client.get(f"/v1/batches/{ordered}").json()
        assert (record["status"], record["num_rows"]) == ("succeeded", 1797), record
        yield api, f"/v1/batches/{ordered}/results"


def page(batch: tuple[Api, str], **params: Any) -> Json:
    """A page that must be answered."""
    answer = batch[0].client.get(batch[1], params=params)
    assert answer.status_code == 200, answer.text
    assert (answer.headers["content-type"], answer.headers["vary"]) == ("application/json", "Accept")
    return dict(answer.json())


@pytest.mark.parametrize("limit", [1, 499, 1000])
def test_pages_give_every_row_once(batch: tuple[Api, str], limit: int) -> None:
    """Pages go on from the last row that is known, to the end, with the keys that were asked for."""
    start = 0 if limit > 1 else 1790
    rows: list[Json] = []
    has_more = True
    while has_more:
        found = page(batch, limit=limit, after=start + len(rows) - 1)
        assert set(found) == {"data", "has_more", "next"}
        rows += found["data"]
        has_more = found["has_more"]
    assert [row["row"] for row in rows] == list(range(start, 1797))
    keys = ["row", "label", "index", "confidence", "uncalibrated_confidence", "abstain", "top_k", "probabilities"]
    assert all(list(row) == keys for row in rows)


def test_cursors(batch: tuple[Api, str]) -> None:
    """Without one the first page, 100 rows; -1 is the same; beyond the end nothing; what is no row is refused."""
    first = page(batch)
    assert [row["row"] for row in first["data"]] == list(range(100))
    assert first["has_more"] is True
    assert page(batch, after=-1) == first
    assert page(batch, after=1795, limit=1)["has_more"] is False
    assert page(batch, after=1795)["data"][0]["row"] == 1796
    for after in (1796, 1797, 10**30):
        assert page(batch, after=after) == {"data": [], "has_more": False, "next": None}
    for bad in ({"after": -2}, {"after": "x"}, {"after": 1.5}, {"limit": 0}, {"limit": 1001}):
        answer = batch[0].client.get(batch[1], params=bad)
        assert answer.status_code == 422, answer.text
        assert [error["field"] for error in answer.json()["errors"]] == list(bad)


def test_the_format_is_negotiated(batch: tuple[Api, str]) -> None:
    """Parquet where it is preferred, named by its digest and in ranges, whatever the page; for all others, pages."""
    client, path = batch[0].client, batch[1]
    answer = client.get(path, params={"limit": 1, "after": 5}, headers=PARQUET)
    assert (answer.headers["content-type"], answer.headers["vary"]) == (PARQUET["Accept"], "Accept")
    assert len(answer.headers["etag"].strip('"')) == 64
    part = client.get(path, headers={**PARQUET, "Range": "bytes=0-3"})
    assert (part.status_code, part.content, part.headers["content-type"]) == (206, b"PAR1", PARQUET["Accept"])
    mixed = client.get(path, headers={"Accept": "application/json;q=0.5, application/vnd.apache.parquet"})
    assert mixed.content == answer.content
    for other in ("*/*", "application/json", "text/plain"):
        assert client.get(path, headers={"Accept": other}).json() == page(batch)


def test_results_that_do_not_exist(batch: tuple[Api, str], uploads: Uploads) -> None:
    """409 before the end and after a failure, as a page and as a file; 404 for an unknown batch."""
    api = batch[0]
    model = api.post("/v1/models", content=uploads["two_columns.onnx"])["id"]
    dataset = api.post("/v1/datasets", content=npz(x=np.ones((200, 3), np.float32), label=np.arange(200) % 2))["id"]
    ordered = api.post("/v1/batches", json={"model": model, "dataset_id": dataset})["id"]
    for status in ("queued", "failed"):
        for headers in ({}, PARQUET):
            answer = api.client.get(f"/v1/batches/{ordered}/results", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (409, "no_results"), answer.text
            assert status in answer.json()["detail"]
        for record_id in (model, dataset, ordered):
            api.work(record_id)
    record = api.client.get(f"/v1/batches/{ordered}").json()
    assert (record["error"]["code"], record["error"]["user_error"]) == ("inputs_mismatch", True)
    assert api.client.get("/v1/batches/bat_x/results", headers=PARQUET).status_code == 404


FORMATS = {"parquet": PARQUET["Accept"], "ndjson": "application/x-ndjson", "csv": "text/csv"}


@pytest.mark.parametrize("format", FORMATS)
def test_the_whole_in_every_format(batch: tuple[Api, str], format: str) -> None:
    """Asked for by name or by its media type, the same rows as in pages, named, tagged, and not sent twice."""
    client, path = batch[0].client, batch[1]
    answer = client.get(path, params={"format": format, "limit": 1})
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, FORMATS[format])
    assert answer.headers["content-disposition"] == f'attachment; filename="{path.split("/")[3]}.{format}"'
    assert client.get(path, headers={"Accept": FORMATS[format]}).content == answer.content
    over = client.get(path, params={"format": format}, headers={"Accept": "application/x-ndjson, text/csv"})
    assert over.content == answer.content
    tag = answer.headers["etag"]
    again = client.get(path, params={"format": format}, headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    pages = [*page(batch, limit=1000)["data"], *page(batch, limit=1000, after=999)["data"]]
    assert read_rows(answer.content, format) == pages


def read_rows(content: bytes, format: str) -> list[Json]:
    """The objects of a page from a file."""
    if format == "parquet":
        return list(pq.read_table(io.BytesIO(content)).to_pylist())
    if format == "ndjson":
        return [json.loads(line) for line in content.decode().splitlines()]
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    as_written = {"id": str, "label": str}
    return [{name: as_written.get(name, json.loads)(cell) for name, cell in row.items() if cell != ""} for row in rows]


def test_an_unknown_format(batch: tuple[Api, str]) -> None:
    """422 that lists the formats."""
    answer = batch[0].client.get(batch[1], params={"format": "xml"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "format")
    assert "parquet" in answer.json()["errors"][0]["message"]


@pytest.mark.parametrize("labels", [True, False])
def test_rows_without_labels(api: Api, uploads: Uploads, labels: bool) -> None:
    """Digits to be predicted, with a bad row and names, from upload to results in all formats; no job takes them."""
    rows, targets, _ = digits()
    some = rows[:20].copy()
    some[3, 5] = np.nan
    names = np.array([f"scan {i}, left" for i in range(20)])
    more = {"label": targets[:20]} if labels else {}
    model = api.post("/v1/models", content=uploads["digits.onnx"])["id"]
    params = {"purpose": "predict"} if labels else {}
    dataset = api.post("/v1/datasets", params=params, content=npz(x=some, id=names, **more))["id"]
    early = api.post("/v1/jobs", json={"model_id": model, "dataset_id": dataset})["id"]
    body = {"model": model, "dataset_id": dataset, "top_k": 2}
    strict = api.post("/v1/batches", json=body)["id"]
    lenient = api.post("/v1/batches", json={**body, "errors": "column"})
    assert (lenient["errors"], lenient["num_errors"]) == ("column", None)
    for record_id in (model, dataset, early, strict, lenient["id"]):
        api.work(record_id)
    record = api.client.get(f"/v1/datasets/{dataset}").json()
    assert (record["status"], record["labelled"], record["num_samples"]) == ("ready", False, 20), record
    absent = ("num_classes", "class_names", "class_counts", "splits", "seen_by_model")
    assert {record[name] for name in absent} == {None}
    assert [notice["code"] for notice in record["adjustments"]] == (["roles_ignored"] if labels else ["no_label"])
    assert "'x' is empty or NaN in row 3" in record["warnings"][0]
    job = api.client.get(f"/v1/jobs/{early}").json()
    assert (job["status"], job["error"]["code"], job["error"]["user_error"]) == ("failed", "unlabelled_dataset", True)
    for dry_run in (True, False):
        late = api.client.post("/v1/jobs", params={"dry_run": dry_run}, json={"model_id": model, "dataset_id": dataset})
        assert (late.status_code, late.json()["code"]) == (422, "unlabelled_dataset"), late.text
        assert late.json()["errors"][0]["field"] == "dataset_id"
    failed = api.client.get(f"/v1/batches/{strict}").json()
    assert (failed["status"], failed["error"]["code"]) == ("failed", "non_finite")
    ended = api.client.get(f"/v1/batches/{lenient['id']}").json()
    assert (ended["status"], ended["num_rows"], ended["num_errors"]) == ("succeeded", 20, 1), ended
    path = f"/v1/batches/{lenient['id']}/results"
    found = api.client.get(path).json()["data"]
    assert [(row["row"], row["id"]) for row in found] == list(enumerate(names))
    assert set(found[3]) == {"row", "id", "error"}
    assert found[3]["error"]["code"] == "non_finite"
    assert "row 3" in found[3]["error"]["message"]
    assert not any("error" in row for row in found[:3] + found[4:])
    session = ort.InferenceSession(uploads["digits.onnx"], providers=["CPUExecutionProvider"])
    best = session.run(None, {"x": rows[:20]})[0].argmax(1)
    assert [row["index"] for row in found if row["row"] != 3] == np.delete(best, 3).tolist()
    for format in ("ndjson", "csv"):
        assert read_rows(api.client.get(path, params={"format": format}).content, format) == found
    result_tables = pq.read_table(io.BytesIO(api.client.get(path, params={"format": "parquet"}).content)).to_pylist()
    assert [row["error"] for row in result_tables if row["error"]] == [found[3]["error"]]
    assert [result_tables[3][name] for name in ("label", "confidence", "id")] == [None, None, "scan 3, left"]


def test_files_that_come_with_a_job_must_have_labels(api: Api, uploads: Uploads) -> None:
    """A job with its files in one call has rows to fit to: without a label they are rejected."""
    job = api.post("/v1/jobs", files={"model": uploads["digits.onnx"], "dataset": npz(x=digits()[0])})
    for record_id in (job["model_id"], job["dataset_id"], job["id"]):
        api.work(record_id)
    ended = api.client.get(f"/v1/jobs/{job['id']}").json()
    assert (ended["status"], ended["error"]["code"]) == ("failed", "dataset_rejected")
    assert "purpose=predict" in ended["error"]["message"]
