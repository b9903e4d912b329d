"""The client against a running service, as its users have it."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import fedlas
from fedlas.client import AsyncClient, Client, Job, errors
from fedlas.contract.events import Progress, StatusChanged
from fedlas.contract.predictions import Prediction
from tests.helpers import uploads as made
from tests.helpers.cut_cable import cable_to
from tests.helpers.judges import judged_rows
from tests.helpers.service import Service

ROWS = made.digits()[0][:5]


def test_a_job_is_what_the_server_says(client: Client, service: Service, job: Job) -> None:
    """The job's fields are those of the record, and `raw` is all of its JSON."""
    record = service.get(f"/v1/jobs/{job.id}")
    assert json.loads(json.dumps(job.raw)) == record
    assert (job.status, job.serves, job.metadata) == ("succeeded", record["serves"], {"a": "b"})
    assert job.refresh() is job
    assert [found.id for found in client.jobs.list(metadata={"a": "b"})] == [job.id]


def test_the_events_are_told_in_order(job: Job) -> None:
    """Each event comes once, typed by what it says, and the last is the job's end."""
    told: list[Any] = []
    assert job.wait(on_event=told.append) is job
    assert [event.id for event in told] == list(range(1, len(told) + 1))
    assert [event.data.status for event in told if isinstance(event.data, StatusChanged)][-1] == "succeeded"
    assert any(isinstance(event.data, Progress) for event in told)
    assert [event.id for event in job.events(after=len(told) - 2)] == [len(told) - 1, len(told)]


def test_a_report_is_typed_and_saved_as_it_came(service: Service, job: Job, tmp_path: Path) -> None:
    """Figures are attributes; the files are the server's bytes; a notebook shows the page in a frame."""
    report, sent = job.report(), service.client.get(f"/v1/jobs/{job.id}/report")
    assert report.raw == sent.json()
    assert report.metrics.calibrated.nll.low == sent.json()["metrics"]["calibrated"]["nll"]["low"]
    assert report.metrics.uploaded.ece.floor_high == sent.json()["metrics"]["uploaded"]["ece"]["floor_high"]
    assert (report.verdict, report.significant) == (job.verdict, job.significant)
    assert list(report.summary) == sent.json()["summary"]
    assert report.save(tmp_path / "report.json").read_bytes() == sent.content
    page = service.client.get(f"/v1/jobs/{job.id}/report.html").text
    assert report.save(tmp_path / "report.html").read_text() == report.html == page
    assert report._repr_html_().startswith("<iframe ")
    with pytest.raises(errors.InvalidInput, match=r"saved as \.html or \.json; found 'report\.pdf'"):
        report.save(tmp_path / "report.pdf")


def test_jobs_and_reports_go_to_other_processes(job: Job) -> None:
    """Pickled, a report is whole; a job is its record, and says that its client stayed behind."""
    report = job.report()
    again = pickle.loads(pickle.dumps(report))
    assert (again.raw, again.html, again.metrics.calibrated) == (report.raw, report.html, report.metrics.calibrated)
    copied = pickle.loads(pickle.dumps(job))
    assert copied.raw == job.raw
    with pytest.raises(errors.InvalidInput, match="copied without its client"):
        copied.refresh()


def test_predictions_are_arrays(client: Client, service: Service, job: Job) -> None:
    """Arrays hold what the JSON of the answer says, however the rows were given."""
    options: dict[str, Any] = {"top_k": 2, "abstain_below": 0.9, "coverage": 0.9}
    expected = service.predict("digits", ROWS.tolist(), **options)
    for inputs in (ROWS, ROWS.tolist(), ROWS.astype(np.float64), list(ROWS)):
        found = client.predict("digits", inputs, **options)
        assert found.labels.tolist() == [int(row["label"]) for row in expected], "digits are sent as integers"
        assert found.probabilities.shape == (len(ROWS), 10)
        np.testing.assert_array_equal(found.probabilities.argmax(1), found.labels)
        np.testing.assert_array_equal(found.confidences, [row["confidence"] for row in expected])
        assert found.abstain.dtype == np.bool_
        assert found.prediction_sets == [list(map(int, row["prediction_set"])) for row in expected]
        assert found.top_k == [row["top_k"] for row in expected]
        assert found.decisions is None
    assert found.model.id == job.calibrated_model_id
    assert [row.raw for row in client.predict("digits", ROWS, probabilities=False, **options)] == expected
    assert isinstance(found[0], Prediction)
    assert found.to_frame()["typicality"].tolist() == [row["typicality"] for row in expected]


def test_a_download_is_the_file(client: Client, job: Job, tmp_path: Path) -> None:
    """The calibrated file runs and says what the server says; a folder gets it under its id."""
    seen: list[tuple[int, int | None]] = []
    path = client.models.download("digits", tmp_path, on_progress=lambda *told: seen.append(told))
    assert path == tmp_path / "digits.onnx"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == client.models.get("digits").sha256
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    confidence = session.run(["confidence"], {"x": ROWS})[0]
    np.testing.assert_allclose(client.predict("digits", ROWS).confidences, confidence, atol=1e-6)
    assert job.download(tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    assert sorted(found.name for found in tmp_path.iterdir() if found.is_file()) == ["again.onnx", "digits.onnx"]
    file = client.models.download("digits", tmp_path / "input.onnx", class_priors="input")
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [found.name for found in session.get_overridable_initializers()] == ["class_priors"]


def test_events_go_on_after_a_cut(service: Service, job: Job) -> None:
    """Cut in the middle of the stream, or whenever it begins, every event still comes once and in order."""
    expected = [event.id for event in job.events()]
    with cable_to(service.client.base_url.port or 0) as cable, Client(cable.url, max_retries=2) as client:
        cable.cut("GET .*/events", received=900)
        assert [event.id for event in client.jobs.events(job.id)] == expected
        first, again, _ = (head for head in cable.requests if "/events" in head)
        assert "last-event-id: 0" in first.lower()
        assert "last-event-id: 0" not in again.lower()
        cable.cut("GET .*/events$", received=0, times=3)
        cable.requests.clear()
        told: list[int] = []
        assert client.jobs.wait(job.id, on_event=lambda event: told.append(event.id)).status == "succeeded"
        assert told == expected
        assert any("/events?limit=" in head for head in cable.requests), "it asked for pages at last"


def test_a_download_goes_on_after_a_cut(service: Service, job: Job, tmp_path: Path) -> None:
    """Cut in the middle of the file, only the rest is asked for, and the whole has the right digest."""
    with cable_to(service.client.base_url.port or 0) as cable, Client(cable.url) as client:
        cable.cut("GET .*/onnx", received=9000)
        path = client.models.download("digits", tmp_path / "m.onnx")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == client.models.get("digits").sha256
        assert cable.done == 1
        assert re.search(r"(?i)\r\nrange: bytes=[1-9][0-9]*-\r\n", f"{cable.requests[1]}\r\n")
    assert [found.name for found in tmp_path.iterdir()] == ["m.onnx"]


def test_predictions_of_a_job_are_arrays(job: Job) -> None:
    """Probabilities of all test rows with their numbers and labels; the digits are integers, and have no names."""
    _, targets, splits = made.digits()
    found = job.predictions()
    assert found.rows.tolist() == np.flatnonzero(splits == "test").tolist()
    np.testing.assert_array_equal(found.labels, targets[found.rows])
    assert found.probabilities.shape == (len(found.rows), 10)
    assert found.ids is None
    accuracy = np.mean(found.probabilities.argmax(1) == found.labels)
    assert accuracy == pytest.approx(job.report().metrics.calibrated.accuracy.value)


def test_batches_have_results(client: Client, job: Job, tmp_path: Path) -> None:
    """A batch's rows come page after page as typed objects, and whole as a file."""
    batch = client.batches.wait(client.batches.create("digits", job.dataset_id, top_k=2))
    rows = client.batches.results(batch).all()
    assert [row.row for row in rows] == list(range(1797))
    assert isinstance(rows[0], Prediction)
    assert rows[0].top_k is not None
    direct = client.predict("digits", ROWS, top_k=2)
    assert [row.index for row in rows[:5]] == direct.indices.tolist()
    np.testing.assert_allclose(client.batches.to_frame(batch)["confidence"][:5], direct.confidences, atol=1e-6)
    assert len(client.batches.download(batch, tmp_path / "rows.csv").read_text().splitlines()) == 1798
    assert [row.row for row in client.batches.results(batch, after=1790, limit=3)] == [1791, 1792, 1793]
    manifest = client.batches.manifest(batch)
    assert [(part.number, part.first_row, part.num_rows) for part in manifest.parts] == [(0, 0, 1797)]
    part = client.batches.download_part(batch, 0, tmp_path / "part.parquet")
    assert hashlib.sha256(part.read_bytes()).hexdigest() == manifest.parts[0].sha256


@pytest.mark.slow
def test_a_calibrator_is_fitted_on_arrays(client: Client, tmp_path: Path) -> None:
    """Scores go out as arrays, and the file that comes back maps them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 1500)
    logits = (5 * rng.normal(size=(1500, 3)) + 3 * np.eye(3)[labels]).astype(np.float32)
    words = np.array(["cat", "dog", "eel"], dtype=object)[labels]  # as pandas has text
    begun = client.calibrators.create(logits=logits, labels=words, name="three", method="temperature")
    assert begun.status == "running"
    calibrator = client.calibrators.wait(begun)
    assert (calibrator.status, calibrator.class_names, calibrator.name) == ("succeeded", ["cat", "dog", "eel"], "three")
    session = ort.InferenceSession(client.calibrators.download(calibrator, tmp_path / "c.onnx"))
    np.testing.assert_allclose(session.run(["probabilities"], {"logits": logits[:3]})[0].sum(1), 1, atol=1e-5)
    assert client.calibrators.report(calibrator).verdict in ("post_hoc", "unchanged")
    client.calibrators.delete(calibrator)
    assert calibrator.id not in [found.id for found in client.calibrators.list()]


def test_raw_responses_have_headers(client: Client, job: Job) -> None:
    """A raw response is a call's value with its status, its headers and the id in the server's log."""
    raw = client.with_raw_response(client.models.get, "digits")
    assert (raw.status, raw.value.id) == (200, job.calibrated_model_id)
    assert raw.headers["etag"]
    assert raw.request_id
    assert client.with_raw_response(client.jobs.get, job.id).value.id == job.id
    with pytest.raises(errors.InvalidInput, match="no request"):
        client.with_raw_response(client.models.list)


@pytest.mark.anyio
async def test_the_asynchronous_client_does_the_same(url: str, job: Job, client: Client) -> None:
    """Awaited, predictions, events and the end of a job are those of the client that waits."""
    told: list[int] = []
    expected = [event.id for event in job.events()]
    async with AsyncClient(url) as awaited:
        found = await awaited.wait(job.id, on_event=lambda event: told.append(event.id))
        assert (found.raw, told) == (job.refresh().raw, expected)
        assert [event.id async for event in awaited.events(job, after=2)] == expected[2:]
        predictions = await awaited.predict("digits", ROWS, top_k=2)
        assert predictions.raw == client.predict("digits", ROWS, top_k=2).raw


@pytest.mark.anyio
async def test_awaited_requests_go_on_after_a_cut(service: Service, job: Job) -> None:
    """Lost answers are asked for again, and events come once, over streams or, where none comes through, pages."""
    expected = [event.id for event in job.events()]
    with cable_to(service.client.base_url.port or 0) as cable:
        async with AsyncClient(cable.url, max_retries=2) as client:
            cable.cut("POST .*/predict", received=0)
            assert len(await client.predict("digits", ROWS)) == 5
            assert cable.done == 1
            cable.cut("GET .*/events", received=900)
            assert [event.id async for event in client.events(job.id)] == expected
            assert [head for head in cable.requests if "/events" in head][1:], "the stream was opened again"
            cable.cut("GET .*/events$", received=0, times=3)
            assert [event.id async for event in client.events(job.id)] == expected
            assert any("/events?limit=" in head for head in cable.requests), "it asked for pages at last"
            cable.cut("GET .*/jobs", received=0, times=9)
            with pytest.raises(errors.APIConnectionError, match=f"^the connection to {cable.url} was lost"):
                await client.wait(job.id)
            with pytest.raises(errors.NotFoundError):
                await client.predict("nobody", ROWS)


@pytest.fixture
def anyio_backend() -> str:
    """The event loop of most programs that await."""
    return "asyncio"


def test_scores_are_calibrated_as_in_the_library(client: Client) -> None:
    """Arrays become the promise of the library under a name that answers; another version's rows are stale."""
    scores, right = judged_rows(400, seed=11)
    promise = {"max_error": 0.15}
    record = client.calibrators.fit(scores, right, promise=promise, valid_for="v1", publish_as="client-judge")
    mine = fedlas.calibrate(scores=scores, labels=right, promise=promise)
    assert (record.promise, record.version) == (mine.promise, 1)
    assert client.calibrators.score_report(record).curve == mine.report.curve
    for valid_for in ("v1", "v2"):
        answer = client.calibrators.predict("client-judge", [9.0, None], valid_for=valid_for)
        assert [row.stale for row in answer.predictions] == [valid_for == "v2"] * 2
        found = [row.probability for row in answer.predictions]
        np.testing.assert_allclose(found, mine.predict([9.0, None]), atol=1e-5)
    with pytest.raises(errors.InvalidRequestError, match="9 rows were sent"):
        client.calibrators.fit(scores[:9], right[:9])
