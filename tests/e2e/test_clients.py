"""The real clients of the Open Inference Protocol, unchanged: every answer is that of ONNX Runtime run alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

import httpx
import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.helpers import uploads as made
from tests.helpers.clients import kserve
from tests.helpers.service import Json, Service
from tests.helpers.uploads import Array, Uploads

pytestmark = pytest.mark.slow

Outputs = dict[str, Array]
RunAlone = Callable[[Mapping[str, Array]], Outputs]

ROWS = made.digits()[0][-16:]
NAME = "digits"
DEFAULTS = {"probabilities", "confidence", "label"}


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[triton.InferenceServerClient]:
    """Triton's client, with eight connections."""
    with triton.InferenceServerClient(address(service), concurrency=8) as opened:
        yield opened


@pytest.fixture(scope="module")
def alone(service: Service, finished: Json) -> Outputs:
    """The outputs that the calibrated model's file computes for ROWS, without the service."""
    return run_alone(downloaded(service, finished["calibrated_model_id"]))({"x": ROWS})


def address(service: Service) -> str:
    """Host and port."""
    return f"{service.client.base_url.host}:{service.client.base_url.port}"


def downloaded(service: Service, model_id: str) -> bytes:
    """A calibrated model's file."""
    answer = service.client.get(f"/v1/models/{model_id}/onnx")
    assert answer.status_code == 200, answer.text
    return answer.content


def served_copy(service: Service, model_id: str) -> bytes:
    """The file that the service opens for an uploaded model."""
    ((digest,),) = service.rows("SELECT served_sha256 FROM models WHERE id = :id", id=model_id)
    (path,) = service.stored.rglob(digest)
    return path.read_bytes()


def run_alone(content: bytes) -> RunAlone:
    """ONNX Runtime and nothing else."""
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def tensor(values: Array, *, name: str = "x", binary: bool = True) -> triton.InferInput:
    """An input."""
    made_input = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made_input.set_data_from_numpy(values, binary_data=binary)
    return made_input


def agree(found: Array | None, expected: Array) -> None:
    """Equal but for the order in which float32 values were summed."""
    assert found is not None
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def texts(found: Array | None) -> list[str]:
    """The texts of an output: the client gives bytes for binary tensors, texts for JSON."""
    assert found is not None
    return [text.decode() if isinstance(text, bytes) else text for text in found.ravel()]


def labels_of(outputs: Outputs) -> list[str]:
    """The digits are named by numbers."""
    return [str(k) for k in outputs["probabilities"].argmax(1)]


def check_defaults(result: triton.InferResult, alone: Outputs) -> None:
    """The outputs that go back when none are named."""
    assert {output["name"] for output in result.get_response()["outputs"]} == DEFAULTS
    agree(result.as_numpy("probabilities"), alone["probabilities"])
    agree(result.as_numpy("confidence"), alone["confidence"])
    assert texts(result.as_numpy("label")) == labels_of(alone)


def test_health_and_server(client: triton.InferenceServerClient, finished: Json) -> None:
    """The server and its models are live and ready, by name, version and id; others are not."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, "1")
    assert client.is_model_ready(finished["calibrated_model_id"])
    assert not client.is_model_ready(NAME, "99")
    assert not client.is_model_ready("nobody")
    server = client.get_server_metadata()
    assert server["name"] == "fedlas"
    assert {"binary_tensor_data", "classification", "statistics"} <= set(server["extensions"])


def test_metadata_and_configuration(client: triton.InferenceServerClient, finished: Json) -> None:
    """Both describe the same tensors; a name lists its versions."""
    metadata = client.get_model_metadata(NAME)
    assert metadata["name"] == NAME
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]
    outputs = {output["name"]: (output["datatype"], output["shape"]) for output in metadata["outputs"]}
    assert outputs["probabilities"] == outputs["logits"] == ("FP32", [-1, 10])
    assert outputs["label"] == ("BYTES", [-1])
    assert client.get_model_metadata(NAME, "1")["outputs"] == metadata["outputs"]
    config = client.get_model_config(NAME)
    assert client.get_model_config(NAME, "1") == config
    assert (config["name"], config["input"][0]["dims"]) == (NAME, [64])
    assert config["max_batch_size"] > 0
    assert [output["name"] for output in config["output"]] == list(outputs)
    by_id = client.get_model_metadata(finished["calibrated_model_id"])
    assert by_id["outputs"] == metadata["outputs"]


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False, None])
def test_every_form(
    client: triton.InferenceServerClient, alone: Outputs, binary_input: bool, binary_output: bool | None
) -> None:
    """JSON and binary, in both directions; without named outputs the client asks for binary ones."""
    names = () if binary_output is None else sorted(DEFAULTS)
    outputs = [triton.InferRequestedOutput(name, binary_data=bool(binary_output)) for name in names]
    result = client.infer(NAME, [tensor(ROWS, binary=binary_input)], outputs=outputs or None)
    check_defaults(result, alone)
    in_binary = ["parameters" in output for output in result.get_response()["outputs"]]
    assert in_binary == [binary_output is not False] * 3
    assert result.get_response()["model_name"] == NAME
    assert result.get_response()["model_version"] == "1"


@pytest.mark.parametrize("received", [None, "gzip", "deflate"])
@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compression(
    client: triton.InferenceServerClient, alone: Outputs, sent: str | None, received: str | None, binary: bool
) -> None:
    """The body may be compressed in both directions; the length of the JSON is that before."""
    result = client.infer(
        NAME, [tensor(ROWS, binary=binary)], request_compression_algorithm=sent, response_compression_algorithm=received
    )
    check_defaults(result, alone)


def test_acting_on_confidences(client: triton.InferenceServerClient, alone: Outputs, service: Service) -> None:
    """Thresholds, sets and rankings are named outputs, with the values that `/v1` gives."""
    wishes = {"coverage": 0.8, "abstain_below": 0.9, "top_k": 3}
    result = client.infer(NAME, [tensor(ROWS)], parameters=wishes)
    predictions = service.predict(NAME, ROWS.tolist(), **wishes)
    assert result.as_numpy("abstain").tolist() == [prediction["abstain"] for prediction in predictions]
    assert result.as_numpy("abstain").tolist() == (alone["confidence"] < 0.9).tolist()
    assert result.as_numpy("threshold").tolist() == [0.9]
    ranked = np.array(texts(result.as_numpy("top_k_label"))).reshape(-1, 3)
    agree(result.as_numpy("top_k_confidence"), -np.sort(-alone["probabilities"], axis=1)[:, :3])
    for row, prediction in enumerate(predictions):
        assert ranked[row].tolist() == [item["label"] for item in prediction["top_k"]]
        inside = np.flatnonzero(result.as_numpy("prediction_set")[row])
        assert {str(k) for k in inside} == set(prediction["prediction_set"])


def test_everything_that_the_metadata_lists(client: triton.InferenceServerClient, alone: Outputs) -> None:
    """Tools ask for all of it at once; types and shapes are as announced."""
    listed = {output["name"]: output for output in client.get_model_metadata(NAME)["outputs"]}
    result = client.infer(NAME, [tensor(ROWS)], outputs=[triton.InferRequestedOutput(name) for name in listed])
    for output in result.get_response()["outputs"]:
        announced = listed[output["name"]]
        assert output["datatype"] == announced["datatype"]
        assert output["shape"] == [len(ROWS), *announced["shape"][1:]]
    for name in alone.keys() & listed.keys():
        agree(result.as_numpy(name), alone[name])
    exponents = np.exp(alone["logits"].astype(np.float64))
    agree(result.as_numpy("uncalibrated_confidence"), (exponents / exponents.sum(1, keepdims=True)).max(1))


def test_what_a_request_may_carry(client: triton.InferenceServerClient, alone: Outputs) -> None:
    """Id, version, sequence, priority and timeout are taken; the id comes back."""
    request_id = 'é "7" \\ 日本'
    result = client.infer(
        NAME,
        [tensor(ROWS)],
        model_version="1",
        request_id=request_id,
        sequence_id=7,
        sequence_start=True,
        sequence_end=True,
        priority=1,
        timeout=20_000_000,
        headers={"X-Request-Id": "abc"},
        query_params={"a": 1},
    )
    check_defaults(result, alone)
    assert result.get_response()["id"] == request_id
    assert "id" not in client.infer(NAME, [tensor(ROWS)]).get_response()


def test_many_at_once(client: triton.InferenceServerClient, alone: Outputs) -> None:
    """Rows of many requests run together, and every answer is that of its own rows."""
    handles = [client.async_infer(NAME, [tensor(ROWS[k : k + 2])], request_id=str(k)) for k in range(15)]
    for k, handle in enumerate(handles):
        result = handle.get_result()
        assert result.get_response()["id"] == str(k)
        agree(result.as_numpy("probabilities"), alone["probabilities"][k : k + 2])


def test_the_asynchronous_client(service: Service, alone: Outputs) -> None:
    """Triton's client for asyncio calls the same and decompresses by itself."""

    async def call() -> triton.InferResult:
        async with triton_aio.InferenceServerClient(address(service)) as opened:
            assert await opened.is_model_ready(NAME)
            assert (await opened.get_model_metadata(NAME))["name"] == NAME
            return await opened.infer(
                NAME, [tensor(ROWS)], request_compression_algorithm="deflate", response_compression_algorithm="gzip"
            )

    check_defaults(asyncio.run(call()), alone)


@pytest.mark.parametrize("binary", [True, False])
def test_bodies_made_and_parsed_by_the_client(service: Service, alone: Outputs, binary: bool) -> None:
    """A body written by its static functions can be sent by anything, and they read the answer."""
    body, length = triton.InferenceServerClient.generate_request_body([tensor(ROWS, binary=binary)])
    headers = {} if length is None else {"Inference-Header-Content-Length": str(length)}
    answer = service.client.post(f"/v2/models/{NAME}/infer", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    json_length = int(answer.headers["Inference-Header-Content-Length"])
    check_defaults(triton.InferenceServerClient.parse_response_body(answer.content, header_length=json_length), alone)


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """Status and message of what the client raises."""
    with pytest.raises(InferenceServerException) as caught:
        call()
    return caught.value.status(), caught.value.message()


def test_errors_are_said(client: triton.InferenceServerClient) -> None:
    """Each mistake has its status, and a sentence that the client finds."""
    infer = client.infer
    two_rows = [triton.InferRequestedOutput("nothing")]
    truncated = tensor(ROWS)
    truncated._raw_data = truncated._raw_data[:-1]
    for call, status, words in (
        (lambda: infer("nobody", [tensor(ROWS)]), "404", "'nobody'"),
        (lambda: infer(NAME, [tensor(ROWS)], model_version="99"), "404", "99"),
        (lambda: infer(NAME, [tensor(ROWS, name="y")]), "400", "'x' FP32 [N, 64]"),
        (lambda: infer(NAME, [tensor(ROWS[:, :63])]), "400", "[64]"),
        (lambda: infer(NAME, [tensor(ROWS), tensor(ROWS)]), "400", "twice"),
        (lambda: infer(NAME, [tensor(ROWS)], outputs=two_rows), "400", "probabilities, confidence, label"),
        (lambda: infer(NAME, [tensor(np.array([["a"]], dtype=object))]), "400", "preprocessing"),
        (lambda: infer(NAME, [tensor(ROWS * np.nan)]), "400", "row 0"),
        (lambda: infer(NAME, [tensor(ROWS * np.nan, binary=False)]), "400", "nan"),
        (lambda: infer(NAME, [truncated]), "400", "left behind the JSON"),
        (lambda: infer(NAME, [tensor(ROWS)], parameters={"coverage": 2}), "400", "from 0 to 1"),
        (lambda: infer(NAME, [tensor(ROWS)], parameters={"topk": 2}), "400", "'top_k'"),
        (lambda: infer(NAME, [tensor(np.zeros((10_001, 64), np.uint8))]), "413", "at most 10000"),
        (lambda: client.get_model_metadata("nobody"), "404", "'nobody'"),
        (lambda: client.get_model_config(NAME, "99"), "404", "99"),
        (lambda: client.get_inference_statistics("nobody"), "404", "'nobody'"),
        (lambda: client.load_model("nobody"), "404", "'nobody'"),
        (lambda: client.unload_model("nobody"), "404", "'nobody'"),
        (lambda: client.load_model(NAME, config="{}"), "400", "config"),
        (client.get_log_settings, "404", ""),
    ):
        found_status, message = refusal(call)
        assert found_status == status, message
        assert words in message


def test_repository(client: triton.InferenceServerClient, digits: tuple[Json, Json]) -> None:
    """An unloaded model is listed as such and not ready, and answers again when it has been loaded."""
    model_id = digits[0]["id"]

    def state() -> str:
        (found,) = [item for item in client.get_model_repository_index() if item["name"] == model_id]
        assert {"name", "version", "state", "reason"} <= set(found)
        return str(found["state"])

    assert {NAME, model_id} <= {item["name"] for item in client.get_model_repository_index()}
    before = client.infer(model_id, [tensor(ROWS)]).as_numpy("probabilities")
    assert state() == "READY"
    client.unload_model(model_id)
    try:
        assert state() == "UNAVAILABLE"
        assert not client.is_model_ready(model_id)
        status, message = refusal(lambda: client.infer(model_id, [tensor(ROWS)]))
        assert status in ("400", "409", "503")
        assert "load" in message
        assert client.is_model_ready(NAME), "others are not concerned"
        client.unload_model(model_id, unload_dependents=True)
    finally:
        client.load_model(model_id)
    assert state() == "READY"
    assert client.is_model_ready(model_id)
    agree(client.infer(model_id, [tensor(ROWS)]).as_numpy("probabilities"), before)


def test_statistics(client: triton.InferenceServerClient, alone: Outputs) -> None:
    """Rows, requests and times of a model grow with what was asked of it."""

    def read() -> Json:
        (found,) = client.get_inference_statistics(NAME, "1")["model_stats"]
        return dict(found)

    before = read()
    for _ in range(3):
        client.infer(NAME, [tensor(ROWS)])
    with pytest.raises(InferenceServerException):
        client.infer(NAME, [tensor(ROWS[:, :63])])
    after = read()
    assert (after["name"], after["version"]) == (NAME, "1")
    assert after["inference_count"] - before["inference_count"] == 3 * len(ROWS)
    assert 0 < after["execution_count"] - before["execution_count"] <= 3
    for kind, count in (("success", 3), ("fail", 1)):
        grown = {
            key: after["inference_stats"][kind][key] - before["inference_stats"][kind][key] for key in ("count", "ns")
        }
        assert grown["count"] == count
        assert grown["ns"] > 0
    for kind in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert {"count", "ns"} <= set(after["inference_stats"][kind])
    everyone = client.get_inference_statistics()["model_stats"]
    assert (NAME, "1") in {(item["name"], item["version"]) for item in everyone}
    assert NAME in {item["name"] for item in client.get_inference_statistics(NAME)["model_stats"]}


def test_an_uploaded_model_and_several_inputs(
    client: triton.InferenceServerClient, service: Service, uploads: Uploads
) -> None:
    """An uncalibrated model answers too, by its id; integers of another width are taken."""
    model = service.inspected("models", uploads["text.onnx"], name="text")
    ids, mask, _ = made.sentences(count=5)
    alone = run_alone(served_copy(service, model["id"]))({"input_ids": ids, "attention_mask": mask})
    inputs = [tensor(mask, name="attention_mask"), tensor(ids.astype(np.int32), name="input_ids", binary=False)]
    check_defaults(client.infer(model["id"], inputs), alone)
    assert client.get_model_metadata(model["id"])["inputs"][0]["datatype"] == "INT64"


def kserve_input(values: Array, *, binary: bool) -> Json:
    """For the script that runs KServe's client."""
    return {"name": "x", "datatype": np_to_triton_dtype(values.dtype), "values": values.tolist(), "binary": binary}


def test_kserve(service: Service, alone: Outputs) -> None:
    """KServe's client finds the server and its models ready, infers in every form, and receives what is wrong."""
    forms = [(sent, received) for sent in (True, False) for received in (True, False, None)]
    calls: list[Json] = [
        {"call": "is_server_live"},
        {"call": "is_server_ready"},
        {"call": "is_model_ready", "model": NAME},
        {"call": "is_model_ready", "model": "nobody"},
        {"call": "infer", "model": "nobody", "inputs": [kserve_input(ROWS, binary=True)]},
        {"call": "infer", "model": NAME, "inputs": [kserve_input(ROWS[:, :63], binary=True)]},
        {
            "call": "infer",
            "model": NAME,
            "inputs": [kserve_input(ROWS, binary=False)],
            "outputs": [{"name": "nothing"}],
        },
        {
            "call": "infer",
            "model": NAME,
            "id": "7",
            "inputs": [kserve_input(ROWS.astype(np.float64), binary=True)],
            "outputs": [
                {"name": "logits", "parameters": {"binary_data": True}},
                {"name": "prediction_set", "parameters": {"binary_data": False}},
                {"name": "label"},
            ],
            "parameters": {"coverage": 0.8},
        },
        *(
            {
                "call": "infer",
                "model": NAME,
                "inputs": [kserve_input(ROWS, binary=sent)],
                "parameters": {} if received is None else {"binary_data_output": received},
            }
            for sent, received in forms
        ),
    ]
    answers = kserve(str(service.client.base_url), calls)
    assert [answer["value"] for answer in answers[:4]] == [True, True, True, False]
    for answer, status, words in zip(answers[4:7], (404, 400, 400), ("'nobody'", "[64]", "'nothing'"), strict=True):
        assert answer["status"] == status
        assert words in answer["error"]
    told = answers[7]["value"]
    assert (told["id"], told["model"]) == ("7", NAME)
    logits = told["outputs"]["logits"]
    agree(np.array(logits["values"], np.float32).reshape(logits["shape"]), alone["logits"])
    assert told["outputs"]["prediction_set"]["shape"] == [len(ROWS), 10]
    for answer in answers[8:]:
        outputs = answer["value"]["outputs"]
        assert outputs.keys() == DEFAULTS
        probs = np.array(outputs["probabilities"]["values"], np.float32).reshape(outputs["probabilities"]["shape"])
        agree(probs, alone["probabilities"])
        assert outputs["label"]["values"] == labels_of(alone)


def test_kserve_is_told_that_a_model_is_not_ready(service: Service, digits: tuple[Json, Json]) -> None:
    """An unloaded model answers 503 to the question whether it is ready."""
    model_id = digits[0]["id"]
    with httpx.Client(base_url=service.client.base_url) as other:
        assert other.post(f"/v2/repository/models/{model_id}/unload").status_code == 200, "an empty body will do"
        try:
            assert other.get(f"/v2/models/{model_id}/ready").status_code == 503
            (answer,) = kserve(str(service.client.base_url), [{"call": "is_model_ready", "model": model_id}])
            assert answer == {"value": False}
        finally:
            assert other.post(f"/v2/repository/models/{model_id}/load", content=b"{}").status_code == 200
