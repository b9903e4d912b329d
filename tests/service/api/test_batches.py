"""`/v1/batches` over HTTP: a worker's results by pages and as a file, compared with ONNX Runtime alone."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest

from service.predict.formats import result_tables
from service.registry.errors import NotFound
from tests.helpers.api import Api, Json, open_api
from tests.helpers.service import children_of, serving, until
from tests.helpers.uploads import Uploads, digits, npz

pytestmark = pytest.mark.slow

PARQUET = {"Accept": "application/vnd.apache.parquet"}
MANY = 50_000


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


def test_the_whole_file(batch: tuple[Api, str]) -> None:
    """The Parquet file has these rows, whatever the page is, a tag by its digest, ranges, and 304 for a known tag."""
    client, path = batch[0].client, batch[1]
    answer = client.get(path, params={"limit": 1, "after": 5}, headers=PARQUET)
    assert answer.status_code == 200
    assert (answer.headers["content-type"], answer.headers["vary"]) == (PARQUET["Accept"], "Accept")
    assert answer.headers["content-disposition"] == f'attachment; filename="{path.split("/")[3]}.parquet"'
    found = pq.read_table(io.BytesIO(answer.content)).to_pylist()
    assert found[:1000] == page(batch, limit=1000)["data"]
    assert len(found) == 1797
    tag = answer.headers["etag"]
    assert len(tag.strip('"')) == 64
    again = client.get(path, headers={**PARQUET, "If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    part = client.get(path, headers={**PARQUET, "Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"PAR1")
    assert part.headers["content-type"] == PARQUET["Accept"]
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


def test_deleting(api: Api, uploads: Uploads) -> None:
    """A batch that has ended goes with its file; 409 before that; of equal files that of another batch stays."""
    model = api.post("/v1/models", content=uploads["digits.onnx"])["id"]
    dataset = api.post("/v1/datasets", content=uploads["digits.npz"])["id"]
    first, second = (api.post("/v1/batches", json={"model": model, "dataset_id": dataset})["id"] for _ in range(2))
    early = api.client.delete(f"/v1/batches/{first}")
    assert (early.status_code, early.json()["code"]) == (409, "not_finished")
    for record_id in (model, dataset, first, second):
        api.work(record_id)
    paths = {batch_id: f"/v1/batches/{batch_id}" for batch_id in (first, second)}
    tag = api.client.get(f"{paths[first]}/results", headers=PARQUET).headers["etag"].strip('"')
    assert api.client.delete(paths[first]).status_code == 204
    assert api.client.get(paths[first]).status_code == api.client.delete(paths[first]).status_code == 404
    assert api.client.get(f"{paths[second]}/results").status_code == 200
    assert api.registry.artifacts.path(tag).is_file()
    assert api.client.delete(paths[second]).status_code == 204
    with pytest.raises(NotFound):
        api.registry.artifacts.path(tag)


def test_fifty_thousand_rows_of_a_running_service(tmp_path: Path, uploads: Uploads) -> None:
    """A batch whose child was killed once has for every row the confidence that ONNX Runtime computes of it."""
    rng = np.random.default_rng(0)
    rows = digits()[0][rng.integers(0, 1797, MANY)] + rng.normal(scale=0.1, size=(MANY, 64)).astype(np.float32)
    assert result_tables.GROUP_ROWS < MANY, "a page may lie across two groups"
    with serving(tmp_path / "data") as service:
        model = service.inspected("models", uploads["digits.onnx"])
        dataset = service.inspected("datasets", npz(x=rows, label=rng.integers(0, 10, MANY)), seen_by_model="no")
        body = {"model": model["id"], "dataset_id": dataset["id"], "top_k": 3, "abstain_below": 0.9}
        path = service.tried().client.post("/v1/batches", json=body).headers["location"]
        (child,) = until(lambda: children_of(service.pid("worker-light")), what="a child begins")
        os.kill(child, signal.SIGKILL)
        record = service.final(path)
        assert (record["status"], record["num_rows"], record["attempts"]) == ("succeeded", MANY, 2), service.log
        assert record["progress"]["fraction"] == 1.0
        until(lambda: service.left_over_files() == [], what="nothing of the first attempt is on the disk")
        file = service.client.get(f"{path}/results", headers=PARQUET)
        across = service.get(f"{path}/results", after=result_tables.GROUP_ROWS - 501, limit=1000)
        single = service.predict(model["id"], rows[:50].tolist(), top_k=3, abstain_below=0.9)
        onnx = service.client.get(f"/v1/models/{model['id']}/onnx").content
    scores = ort.InferenceSession(onnx, providers=["CPUExecutionProvider"]).run(None, {"x": rows})[0].astype(np.float64)
    probs = np.exp(scores - scores.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    found = pq.read_table(io.BytesIO(file.content))
    assert found["row"].to_pylist() == list(range(MANY))
    np.testing.assert_array_equal(found["index"], scores.argmax(1))
    for name in ("confidence", "uncalibrated_confidence"):
        np.testing.assert_allclose(found[name], probs.max(1), atol=1e-5)
    np.testing.assert_array_equal(found["abstain"], found["confidence"].to_numpy() < 0.9)
    assert {True, False} == set(found["abstain"].to_pylist())
    ranked = np.array([[item["confidence"] for item in row] for row in found["top_k"].to_pylist()])
    np.testing.assert_allclose(ranked, -np.sort(-probs, axis=1)[:, :3], atol=1e-5)
    assert across["data"] == found.slice(result_tables.GROUP_ROWS - 500, 1000).to_pylist()
    assert across["next"] == str(across["data"][-1]["row"])
    for row, alone in zip(found.slice(0, 50).to_pylist(), single, strict=True):
        assert [item["index"] for item in row["top_k"]] == [item["index"] for item in alone["top_k"]]
        assert row["confidence"] == pytest.approx(alone["confidence"], abs=1e-6)
        assert (row["label"], row["abstain"]) == (alone["label"], alone["abstain"])
