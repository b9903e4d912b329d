"""Bad uploads and jobs over HTTP: each is answered with its code and a sentence that names what was found."""

from __future__ import annotations

import io
import pickle
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


def sequence() -> bytes:
    """An output per row and step, as a tagger has."""
    weight = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    shape = np.array([-1, 8, 8], dtype=np.int64)
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["s"])]
    return graph(nodes, [helper.make_tensor_value_info("s", TensorProto.FLOAT, ["N", 8, 5])], w=weight, shape=shape)


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
    """What is no ONNX classifier is rejected with its own code."""
    content = uploads["digits.onnx"]
    cases = {
        "text": (b"hello, I am a model", "not_onnx", "ONNX"),
        "picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not_onnx", "ONNX"),
        "cut off": (content[: len(content) // 2], "truncated|not_onnx", ""),
        "external": (external(content), "external_data", "external_data=False"),
        "sigmoids": (sigmoids(), "multilabel_unsupported", ""),
        "sequence": (sequence(), "no_classifier_output", ""),
    }
    assert wrong(service, "models", cases) == {}


def test_pickles_are_never_opened(service: Service) -> None:
    """Pickle in any form is recognised by its content and refused with advice."""
    layer = torch.nn.Linear(4, 2)
    cases = {
        "pickle": (pickle.dumps({"a": 1}), "unsafe_format", "ONNX"),
        "old pickle": (pickle.dumps([1, 2, 3], protocol=0), "unsafe_format", "ONNX"),
        "torch.save": (saved(lambda file: torch.save(layer.state_dict(), file)), "unsafe_format", "ONNX"),
        "joblib": (saved(lambda file: joblib.dump({"w": np.ones(4)}, file)), "unsafe_format", "ONNX"),
        "joblib, compressed": (
            saved(lambda file: joblib.dump({"w": np.ones(4)}, file, compress=3)),
            "unsafe_format",
            "ONNX",
        ),
    }
    assert wrong(service, "models", cases) == {}
    as_data = {name: (content, code, "") for name, (content, code, _) in cases.items()}
    assert wrong(service, "datasets", as_data) == {}


def test_bad_datasets(service: Service) -> None:
    """A dataset that cannot be used is rejected, and array, row and value are named."""
    rows, targets, splits = made.digits()
    holed, endless = rows.copy(), rows.copy()
    holed[17, 3], endless[18, 3] = np.nan, np.inf
    negative = targets.copy()
    negative[19] = -1
    few = splits.copy()
    few[few == "calibration"] = "guarantee"
    few[:5] = "calibration"
    cases = {
        "objects": (saved(lambda f: np.savez(f, x=rows, label=targets.astype(object))), "object_array", "label"),
        "lengths": (made.npz(x=rows[:-1], label=targets), "length_mismatch", "1796"),
        "nan": (made.npz(x=holed, label=targets), "non_finite", "row 17"),
        "inf": (made.npz(x=endless, label=targets), "non_finite", "row 18"),
        "negative label": (made.npz(x=rows, label=negative), "labels_out_of_range", "row 19"),
        "one class": (made.npz(x=rows, label=np.zeros(1797, int)), "one_class", "label"),
        "no label": (made.npz(x=rows), "no_label", "x"),
        "unknown split": (made.npz(x=rows, label=targets, split=np.full(1797, "dev")), "unknown_split", "dev"),
        "few rows": (made.npz(x=rows, label=targets, split=few), "split_too_small", "calibration' has 5 rows"),
        "cut off": (made.digits_npz()[:5000], "corrupt", ""),
        "csv with text": (b"a,b,label\n1,x,0\n2,y,1\n", "non_numeric_column", "b"),
        "csv, ragged": (b"a,label\n1,0\n2,1,3\n", "corrupt", ""),
        "no text at all": (bytes(range(256)) * 4, "unsupported_format", ""),
    }
    assert wrong(service, "datasets", cases, purpose="fit") == {}


def test_jobs_whose_model_and_dataset_do_not_fit(service: Service, uploads: Uploads, digits: tuple[Json, Json]) -> None:
    """The job fails as its sender's error, and both sides are shown."""
    rows, targets, _ = made.digits()
    text = service.upload("models", uploads["text.onnx"])
    more = targets.copy()
    more[-1] = 10
    cases = {
        "shape": (digits[0], made.digits_npz(x=rows[:, :32]), "inputs_mismatch", ("64", "32")),
        "classes": (digits[0], made.digits_npz(label=more), "class_mismatch", ("10 classes", "11")),
        "names": (text, made.digits_npz(), "inputs_mismatch", ("input_ids", "'x'")),
        "rejected": (digits[0], b"hello", "dataset_rejected", ()),
    }
    orders = {
        name: service.order(model, service.upload("datasets", content)) for name, (model, content, *_) in cases.items()
    }
    for name, (_, _, code, words) in cases.items():
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
