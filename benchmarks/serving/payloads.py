"""Requests as each server wants them, and what their answers say; it knows neither servers nor sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.data.common import Array

JSON = {"Content-Type": "application/json"}
BINARY_HEADER = "Inference-Header-Content-Length"
_TOLERANCE = 1e-5


class Failed(Exception):
    """A server did not start, or did not answer as it must."""


@dataclass(frozen=True)
class Answer:
    """An answer about N rows: the most probable class and its probability, or all (N, K) probabilities."""

    indices: Array
    confidences: Array
    probs: Array | None = None

    @classmethod
    def of(cls, probs: Any) -> Answer:
        """From probabilities (N, K) alone."""
        array = np.asarray(probs, np.float64)
        return cls(array.argmax(1), array.max(1), array)


#: From the lower-case headers and the body of an answer.
Reader = Callable[[Mapping[str, str], bytes], Answer]


@dataclass(frozen=True)
class Request:
    """One POST, sent again and again, and how its answer is read."""

    path: str
    body: bytes
    read: Reader
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)

    def with_headers(self, headers: Mapping[str, str]) -> Request:
        """A copy of the request with more headers."""
        return replace(self, headers={**self.headers, **headers})

    def wire(self, port: int) -> bytes:
        """The bytes of the request on a connection that is kept."""
        fields = {"Host": f"127.0.0.1:{port}", **self.headers, "Content-Length": str(len(self.body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {self.path} HTTP/1.1\r\n{head}\r\n".encode() + self.body


def check(answer: Answer, expected: Array, *, who: str) -> None:
    """Raise Failed unless the answer agrees with the probabilities (N, K) of ONNX Runtime alone to 1e-5."""
    alone = Answer.of(expected)
    differences = [np.abs(answer.confidences - alone.confidences).max()]
    if answer.probs is not None:
        differences.append(np.abs(answer.probs - alone.probs).max())
    if not np.array_equal(answer.indices, alone.indices) or max(differences) > _TOLERANCE:
        raise Failed(
            f"{who} answers classes {answer.indices[:5]} with {answer.confidences[:5]}; ONNX Runtime alone answers "
            f"{alone.indices[:5]} with {alone.confidences[:5]}"
        )


def rows_json(path: str, rows: Array, *, read: Reader, **options: Any) -> Request:
    """`{"inputs": [[…]]}`, the numbers written as `array.tolist()` gives them."""
    return Request(path, json.dumps({"inputs": rows.tolist(), **options}).encode(), read)


def oip_json(path: str, rows: Array, *, outputs: tuple[str, ...] = ("probabilities",)) -> Request:
    """Open Inference Protocol, JSON both ways; no `outputs` leaves them to the server."""
    tensor = {**_tensor(rows), "data": rows.ravel().tolist()}
    content = {"inputs": [tensor], **({"outputs": [{"name": name} for name in outputs]} if outputs else {})}
    return Request(path, json.dumps(content).encode(), _read_oip_json)


def oip_binary(path: str, rows: Array, *, outputs: tuple[str, ...] = ("probabilities",)) -> Request:
    """Open Inference Protocol with binary tensors both ways, as `tritonclient` sends them."""
    raw = rows.tobytes()
    tensor = {**_tensor(rows), "parameters": {"binary_data_size": len(raw)}}
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    header = json.dumps({"inputs": [tensor], "outputs": wanted}).encode()
    return Request(path, header + raw, _read_oip_binary, {BINARY_HEADER: str(len(header))})


def read_nothing(_: Mapping[str, str], body: bytes) -> Answer:
    """For a server that computes nothing."""
    raise NotImplementedError(f"{len(body)} bytes without a prediction in them")


def read_probabilities(_: Mapping[str, str], body: bytes) -> Answer:
    """`{"probabilities": [[…]]}`."""
    return Answer.of(json.loads(body)["probabilities"])


def read_array(_: Mapping[str, str], body: bytes) -> Answer:
    """`[[…]]`, as BentoML writes an array."""
    return Answer.of(json.loads(body))


def read_predictions(_: Mapping[str, str], body: bytes) -> Answer:
    """The answer of `/v1/models/{id}/predict`."""
    found = json.loads(body)["predictions"]
    return Answer(np.array([one["index"] for one in found]), np.array([one["confidence"] for one in found]))


def _tensor(rows: Array) -> dict[str, Any]:
    return {"name": "x", "shape": list(rows.shape), "datatype": "FP32"}


def _read_oip_json(_: Mapping[str, str], body: bytes) -> Answer:
    probs = next(output for output in json.loads(body)["outputs"] if output["name"] == "probabilities")
    return Answer.of(np.asarray(probs["data"]).reshape(probs["shape"]))


def _read_oip_binary(headers: Mapping[str, str], body: bytes) -> Answer:
    length = int(headers[BINARY_HEADER.lower()])
    at = length
    for output in json.loads(body[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        if output["name"] == "probabilities":
            return Answer.of(np.frombuffer(body, np.float32, size // 4, at).reshape(output["shape"]))
        at += size
    raise Failed(f"no probabilities in {body[:length].decode()}")
