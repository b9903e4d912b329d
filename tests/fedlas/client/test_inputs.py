"""Rows in several requests: none has more than the service takes, and they come back as one, in their order."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from torch import nn

from fedlas.client import APIConnectionError, APIError, AsyncClient, Client, InvalidInput, InvalidRequestError
from fedlas.client.inputs import MAX_ROWS, body_of, parts_of
from fedlas.errors import ConversionError
from tests.helpers import uploads as made
from tests.helpers.service import Service

COUNT = 2 * MAX_ROWS + 5


class Echo:
    """A server that answers each row with itself, whatever form it came in, and notes the requests."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.deadlines: list[str | None] = []
        self.refuses = lambda request: False
        self.model: Callable[[int], str] = lambda request: "mdl_1"

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.headers["content-type"] == "application/x-npy":
            rows = np.load(io.BytesIO(request.content))[:, 0].tolist()
        else:
            sent = json.loads(request.content)["inputs"]
            rows = sent["x"] if isinstance(sent, dict) else [row["x"] if isinstance(row, dict) else row for row in sent]
        self.sizes.append(len(rows))
        self.deadlines.append(request.headers.get("x-request-timeout"))
        if self.refuses(len(self.sizes)):
            problem = {"code": "inputs_mismatch", "detail": "row 7 is no number"}
            return httpx.Response(422, json=problem, headers={"content-type": "application/problem+json"})
        model = {"id": self.model(len(self.sizes)), "name": "m", "version": 1, "calibrated": True}
        same = {"confidence": 1.0, "uncalibrated_confidence": 1.0, "abstain": False}
        answers = [same | {"label": str(row), "index": int(row)} for row in rows]
        return httpx.Response(200, json={"model": model, "predictions": answers})


@pytest.fixture
def echo() -> Echo:
    """The server."""
    return Echo()


@pytest.fixture
def echoed(echo: Echo) -> Iterator[Client]:
    """A client of it."""
    with Client("http://test", http=httpx.Client(transport=httpx.MockTransport(echo))) as opened:
        yield opened


@pytest.mark.parametrize("form", [list, np.array, lambda rows: pd.DataFrame({"x": rows}), lambda rows: {"x": rows}])
def test_many_rows_go_out_in_parts(echoed: Client, echo: Echo, form: Callable[[Any], Any]) -> None:
    """Lists, arrays, frames and mappings of more than 10,000 rows are three requests and one answer, in order."""
    rows = np.arange(COUNT)
    given = form(rows[:, None]) if form is np.array else form(rows.tolist())
    found = echoed.predict("m", given)
    assert echo.sizes == [MAX_ROWS, MAX_ROWS, 5]
    assert found.indices.tolist() == rows.tolist()
    assert found.model.id == "mdl_1"


def test_as_many_as_a_request_takes_go_out_in_one(echoed: Client, echo: Echo) -> None:
    """The limit itself is no reason for a second request."""
    assert len(echoed.predict("m", np.zeros((MAX_ROWS, 1)))) == MAX_ROWS
    assert echo.sizes == [MAX_ROWS]


def test_the_asynchronous_client_sends_parts_too(echo: Echo) -> None:
    """Awaited, the same three requests are one answer."""

    async def indices() -> list[int]:
        http = httpx.AsyncClient(transport=httpx.MockTransport(echo))
        async with AsyncClient("http://test", http=http) as client:
            return list((await client.predict("m", np.arange(COUNT)[:, None])).indices)

    assert anyio.run(indices) == list(range(COUNT))
    assert echo.sizes == [MAX_ROWS, MAX_ROWS, 5]


def test_an_error_names_its_rows(echoed: Client, echo: Echo) -> None:
    """A refusal, and rows that cannot be sent, say which part it was; of a single request there is none to name."""
    echo.refuses = lambda request: request == 2
    with pytest.raises(InvalidRequestError, match=r"^rows 10000 to 19999: row 7 is no number$") as caught:
        echoed.predict("m", np.zeros((COUNT, 1)))
    assert (caught.value.code, caught.value.message) == ("inputs_mismatch", str(caught.value))
    echo.refuses = lambda request: False
    with pytest.raises(InvalidInput, match=r"^rows 20000 to 20004: inputs hold infinity"):
        echoed.predict("m", [*range(2 * MAX_ROWS), float("inf"), 1, 2, 3, 4])
    with pytest.raises(InvalidInput, match=r"^inputs hold infinity"):
        echoed.predict("m", [float("inf")])


def test_answers_of_two_models_are_no_answer(echoed: Client, echo: Echo) -> None:
    """A version that takes over between two requests is an error rather than mixed in."""
    echo.model = lambda request: f"mdl_{request}"
    with pytest.raises(APIError, match="mdl_1 and mdl_2 answered; ask again"):
        echoed.predict("m", np.zeros((COUNT, 1)))


def test_a_deadline_is_for_all_parts(echoed: Client, echo: Echo) -> None:
    """Each request gives what is left of it; where nothing is left the rest is not sent."""
    echoed.predict("m", np.zeros((COUNT, 1)), deadline=60)
    assert [float(given or 0) <= 60 for given in echo.deadlines] == [True] * 3
    part = next(parts_of([1], 0.0))
    with pytest.raises(APIConnectionError, match="the deadline passed"):
        part.request({})


def test_a_module_is_exported_as_it_is(silent: Client, tmp_path: Path) -> None:
    """The uploaded file says what the module says, under its name, and the job tells what was done."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    rows, labels, splits = made.digits()
    job = silent.calibrate(network, {"x": rows, "label": labels, "split": splits}, wait=False, metadata={"by": "me"})
    assert (job.status, job.metadata) == ("queued", {"by": "me"})
    assert job.notes
    assert all(note.endswith(".") for note in job.notes)
    model = silent.models.get(job.model_id)
    assert model.name == "Sequential"
    session = ort.InferenceSession(silent.models.download(model, tmp_path / "m.onnx"))
    outputs = session.run(None, {session.get_inputs()[0].name: rows[:7]})[0]
    np.testing.assert_allclose(outputs, network(torch.from_numpy(rows[:7])).detach(), atol=1e-5)


def test_a_module_can_be_sent_with_a_file(silent: Client, files: Path) -> None:
    """Rows in a file tell nothing of the module's inputs here: `example` does."""
    network = nn.Sequential(nn.Linear(64, 10))
    job = silent.calibrate(network, files / "digits.npz", example=torch.zeros(2, 64, requires_grad=True), wait=False)
    assert silent.datasets.get(job.dataset_id).name == "digits"
    stored = silent.datasets.get(job.dataset_id)
    for unknown in (files / "digits.npz", stored, stored.id):
        with pytest.raises(ConversionError, match="example"):
            silent.calibrate(network, unknown, wait=False)
    assert silent.calibrate(network, stored, example=torch.zeros(2, 64), wait=False).dataset_id == stored.id


@pytest.mark.filterwarnings("ignore::DeprecationWarning:timm")
def test_weights_of_an_architecture_are_sent_as_onnx(silent: Client, tmp_path: Path) -> None:
    """The service, which takes no weights without a graph, gets the network that its owner's machine has built."""
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "w.safetensors")
    options = {"architecture": "timm/test_resnet", "preprocessing": {"crop": 64}}
    model = silent.models.upload(tmp_path / "w.safetensors", wait=False, **options)
    assert model.name == "w"
    (given,) = ort.InferenceSession(silent.models.download(model, tmp_path / "m.onnx")).get_inputs()
    assert given.shape[1:] == [3, 64, 64]


def test_a_label_of_another_name_is_no_input(silent: Client) -> None:
    """A module is exported with the rows alone where `roles` name the label."""
    rows = {"x": np.zeros((6, 4), np.float32), "diagnosis": np.arange(6) % 2}
    options = {"roles": {"label": "diagnosis"}, "seen_by_model": "no"}
    job = silent.calibrate(nn.Linear(4, 2), rows, dataset_options=options, wait=False)
    assert silent.models.get(job.model_id).name == "Linear"


def test_tensors_are_inputs() -> None:
    """A tensor that is still part of a graph goes out as its numbers."""
    rows = torch.ones(1, 2, requires_grad=True)
    expected = body_of(np.ones((1, 2), np.float32), {})[0]
    assert body_of(rows, {})[0] == body_of(rows.to(torch.bfloat16), {})[0] == expected
    masked = np.ma.masked_array([[1.0, 2.0]], [[True, False]])
    assert body_of(masked, {})[0] == body_of(np.array([[np.nan, 2.0]]), {})[0]
    assert body_of(np.ones((1, 2), np.longdouble), {})[0] == body_of(np.ones((1, 2)), {})[0]


def test_stored_records_are_not_sent_again(silent: Client, tmp_path: Path) -> None:
    """Records and their ids take the place of files."""
    (tmp_path / "x.bin").write_bytes(b"x")
    model = silent.models.upload(tmp_path / "x.bin", wait=False)
    dataset = silent.datasets.upload(tmp_path / "x.bin", wait=False)
    for given in ((model, dataset), (model.id, dataset.id)):
        job = silent.calibrate(*given, wait=False)
        assert (job.model_id, job.dataset_id, job.notes) == (model.id, dataset.id, [])
    assert [found.id for found in silent.models.list(name="x")] == [model.id]


@pytest.mark.slow
def test_an_estimator_and_a_frame_are_calibrated(client: Client, service: Service) -> None:
    """An estimator fitted on a frame comes back calibrated, and answers frames by the names of their columns."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(3000, 4)), columns=["age", "load", "hour", "dose"])
    target = np.where(frame["age"] + 0.5 * frame["load"] + rng.normal(size=3000) > 0, "sick", "well")
    job = client.calibrate(
        LogisticRegression(C=1e3).fit(3 * frame[:500], target[:500]),
        frame[500:].assign(label=target[500:]),
        method="temperature",
        budget=1,
        dataset_options={"seen_by_model": "no"},
    )
    model = client.models.get(job.calibrated_model_id or "")
    assert model.class_names == ["sick", "well"]
    assert model.columns == list(frame.columns)
    expected = client.predict(model, frame[:5].to_numpy(np.float32)).confidences
    found = client.predict(model, frame[["dose", "age", "hour", "load"]][:5].astype(np.float32))
    np.testing.assert_allclose(found.confidences, expected, atol=1e-6)
