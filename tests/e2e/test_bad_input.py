"""Bad uploads and jobs over HTTP: each is answered with its code and a sentence that names what was found."""

from __future__ import annotations

import io
from typing import Any

import joblib
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from tests.helpers import uploads as made
from tests.helpers.service import Service
from tests.helpers.uploads import Uploads

Json = dict[str, Any]


def graph(nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto], **weights: np.ndarray) -> bytes:
    """A model with the input `x` (N, 64)."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])]
    initialisers = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    made_graph = helper.make_graph(nodes, "g", inputs, outputs, initialisers)
    model = helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def sigmoids() -> bytes:
    """Five independent sigmoids."""
    weight = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["s"]), helper.make_node("Sigmoid", ["s"], ["p"])]
    return graph(nodes, [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 5])], w=weight)


def external(content: bytes) -> bytes:
    """The same model with one tensor said to lie in a second file."""
    model = onnx.load_from_string(content)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    return bytes(model.SerializeToString())


def saved(write: Any) -> bytes:
    """What `write` puts into a file."""
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def wrong(service: Service, kind: str, cases: dict[str, tuple[bytes, str, str]], **options: str) -> dict[str, Any]:
    """Send all at once; return the records that are not rejected with the code and the words they should have."""
    records = {name: service.upload(kind, content, **options) for name, (content, _, _) in cases.items()}
    found = {name: service.final(f"/v1/{kind}/{record['id']}") for name, record in records.items()}
    return {
        name: (found[name]["status"], found[name]["error"])
        for name, (_, code, words) in cases.items()
        if found[name]["status"] != "rejected"
        or found[name]["error"]["code"] not in code.split("|")
        or words not in found[name]["error"]["message"]
        or not found[name]["error"]["user_error"]
    }


def test_models_that_are_no_classifiers(service: Service, uploads: Uploads) -> None:
    """What is no ONNX classifier is rejected with its own code: by its first bytes, its tensors or its outputs.

    Every other bad file is in `tests/corpus`, where the same inspection is asked without the service around it.
    """
    pickled = saved(lambda file: torch.save(torch.nn.Linear(4, 2).state_dict(), file))
    cases = {
        "torch.save": (pickled, "unsafe_format", "ONNX"),
        "external": (external(uploads["digits.onnx"]), "external_data", 'onnx.save(onnx.load("m.onnx"), "one.onnx")'),
        "sigmoids": (sigmoids(), "multilabel_unsupported", ""),
    }
    assert wrong(service, "models", cases) == {}


def test_bad_datasets(service: Service) -> None:
    """A dataset that cannot be used is rejected, and array, row and value are named; so are all in `tests/corpus`."""
    rows, targets, _ = made.digits()
    holed = rows.copy()
    holed[17, 3] = np.nan
    cases = {
        "joblib": (saved(lambda file: joblib.dump({"w": np.ones(4)}, file)), "unsafe_format", ""),
        "objects": (saved(lambda f: np.savez(f, x=rows, label=targets.astype(object))), "object_array", "label"),
        "nan": (made.npz(x=holed, label=targets), "non_finite", "row 17"),
        "csv with text": (b"a,b,label\n1,x,0\n2,y,1\n", "non_numeric_column", "b"),
    }
    assert wrong(service, "datasets", cases, purpose="fit") == {}


def test_jobs_whose_model_and_dataset_do_not_fit(service: Service, digits: tuple[Json, Json]) -> None:
    """The job fails as its sender's error, and both sides are shown; classes are a matter of `test_label_order`."""
    rows, _, _ = made.digits()
    cases = {
        "shape": (made.digits_npz(x=rows[:, :32]), "inputs_mismatch", ("64", "32")),
        "rejected": (b"hello", "dataset_rejected", ()),
    }
    orders = {
        name: service.order(digits[0], service.upload("datasets", content)) for name, (content, *_) in cases.items()
    }
    for name, (_, code, words) in cases.items():
        job = service.ended(orders[name]["id"])
        assert job["status"] == "failed", (name, job)
        assert (job["error"]["code"], job["error"]["user_error"]) == (code, True), (name, job["error"])
        assert all(word in job["error"]["message"] for word in words), (name, job["error"])
        assert (job["verdict"], job["calibrated_model_id"], job["report_url"]) == (None, None, None)


def test_rows_outside_a_vocabulary_are_the_senders_error(service: Service, uploads: Uploads) -> None:
    """Token ids that the model does not know fail job and batch with `user_error`, not as a defect of ours."""
    ids, mask, targets = made.sentences()
    ids[7, 0] = 10_000
    model = service.upload("models", uploads["text.onnx"])
    content = made.npz(input_ids=ids, attention_mask=mask, label=targets)
    dataset = service.inspected("datasets", content, seen_by_model="no")
    assert service.final(f"/v1/models/{model['id']}")["status"] == "ready"
    batch = service.client.post("/v1/predictions", json={"model": model["id"], "dataset_id": dataset["id"]}).json()
    ended = service.final(f"/v1/predictions/{batch['id']}")
    assert (ended["status"], ended["error"]["user_error"]) == ("failed", True), ended
    job = service.ended(service.order(model, dataset)["id"])
    assert (job["status"], job["error"]["user_error"]) == ("failed", True), job


def test_predicting_with_a_rejected_model(service: Service) -> None:
    """A model that was rejected answers 409 and says so."""
    model = service.inspected("models", b"no model")
    answer = service.client.post(f"/v1/models/{model['id']}/predict", json={"inputs": [[1.0]]})
    assert (answer.status_code, answer.json()["code"]) == (409, "model_not_ready")
