"""What an attack may aim at: models and a dataset that were sent to the service as any client sends them."""

from __future__ import annotations

import io
import json
import time
import urllib.error
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from urllib.parse import quote

import numpy as np

from benchmarks.weight import graphs
from benchmarks.weight.service import KEY, Service

#: How many numbers a row of a model has; `L` rows of any length, `image` rows of a small image.
INPUTS = 8
WIDE_INPUTS = 1
_WIDTH = 50_000
_NAMED_CLASSES = 8_000
#: Names of classes, the longest first: what is sent is what the service takes.
_NAMES = tuple("class %05d " + "with a name that goes on and on " * times for times in (3, 1, 0))
_SIDE = 8
_WAIT_S = 90.0


@dataclass(frozen=True)
class _Upload:
    content: Callable[[], bytes]
    fields: Mapping[str, str]
    names: tuple[str, ...] = ()


_MODELS: dict[str, _Upload] = {
    "small": _Upload(lambda: graphs.perceptron(INPUTS, 16), {}),
    "wide": _Upload(lambda: graphs.perceptron(WIDE_INPUTS, _WIDTH), {}),
    "named": _Upload(lambda: graphs.perceptron(INPUTS, 16, _NAMED_CLASSES), {}, names=_NAMES),
    "image": _Upload(lambda: graphs.pixels(_SIDE), {"preprocessing": json.dumps({"resize": [_SIDE, _SIDE]})}),
    "filled": _Upload(lambda: graphs.filled(INPUTS), {}),
    "stepped": _Upload(lambda: graphs.stepped(INPUTS), {}),
    "cubic": _Upload(lambda: graphs.cubic(INPUTS), {}),
    "paired": _Upload(graphs.paired, {}),
}


@dataclass(frozen=True)
class World:
    """Ids by our own names.

    Attributes:
        verdicts: model → `ready`, or why it was refused.
        warm: whether rows of a model can be told from JSON alone, and more; for `warm_up`.
    """

    key: str
    models: Mapping[str, str]
    verdicts: Mapping[str, str]
    dataset: str

    def predict(self, model: str) -> str:
        """The path of its predictions."""
        return f"/v1/models/{self.models[model]}/predict"

    def infer(self, model: str) -> str:
        """The same under the Open Inference Protocol."""
        return f"/v2/models/{self.models[model]}/infer"

    @staticmethod
    def inputs(model: str, length: int = INPUTS) -> int:
        """Numbers in a row; `length` where a row may have any."""
        return {"wide": WIDE_INPUTS, "image": 3 * _SIDE * _SIDE, "paired": length}.get(model, INPUTS)

    def warm_up(self, service: Service) -> None:
        """Open every model, so that opening is not counted among what a request keeps."""
        for name, identifier in self.models.items():
            if self.verdicts[name] == "ready":
                row = np.zeros([1, *([3, _SIDE, _SIDE] if name == "image" else [self.inputs(name)])]).tolist()
                with suppress(OSError):
                    service.ask("POST", f"/v1/models/{identifier}/predict", json.dumps({"inputs": row}).encode())

    @classmethod
    def made(cls, service: Service) -> World:
        """Send everything and wait until all is inspected."""
        models = {name: _sent(service, name, upload) for name, upload in _MODELS.items()}
        dataset = service.ask("POST", "/v1/datasets?name=rows", _rows(), "application/octet-stream")["id"]
        verdicts = {name: _verdict(service, f"/v1/models/{identifier}") for name, identifier in models.items()}
        _verdict(service, f"/v1/datasets/{dataset}")
        return cls(KEY, models, verdicts, dataset)


def _sent(service: Service, name: str, upload: _Upload) -> str:
    """The id of the record; of names that are refused for their length, shorter ones are tried."""
    for pattern in upload.names or ("",):
        names = ",".join((pattern % number).strip() for number in range(_NAMED_CLASSES)) if pattern else ""
        fields = {**upload.fields, **({"class_names": names} if names else {})}
        with suppress(urllib.error.HTTPError):
            return str(service.ask("POST", *_form(name, replace(upload, fields=fields)))["id"])
    raise AssertionError(f"the service does not take the model {name!r}")


def _verdict(service: Service, path: str) -> str:
    until = time.monotonic() + _WAIT_S
    while time.monotonic() < until:
        with suppress(urllib.error.URLError):
            record = service.ask("GET", f"{path}?wait=30")
            if record["status"] != "inspecting":
                error = record.get("error") or {}
                return f"rejected ({error['code']})" if error else str(record["status"])
    return "still inspecting"


def _form(name: str, upload: _Upload) -> tuple[str, bytes, str]:
    """Path, multipart body and type: names of classes are too long for a URL."""
    boundary, body = "a-part-ends-here", io.BytesIO()
    for field, value in upload.fields.items():
        body.write(f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode())
    disposition = f'Content-Disposition: form-data; name="file"; filename="{name}.onnx"'
    body.write(f"--{boundary}\r\n{disposition}\r\nContent-Type: application/octet-stream\r\n\r\n".encode())
    body.write(upload.content() + f"\r\n--{boundary}--\r\n".encode())
    return f"/v1/models?name={quote(name)}", body.getvalue(), f"multipart/form-data; boundary={boundary}"


def _rows() -> bytes:
    rng, file = np.random.default_rng(0), io.BytesIO()
    np.savez(file, x=rng.normal(size=(300, INPUTS)).astype(np.float32), y=np.arange(300) % 3)
    return file.getvalue()
