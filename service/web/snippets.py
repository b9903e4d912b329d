"""Snippets: programs that ask this model on this server, to copy; a key is read from the environment and never shown.

Names of inputs, columns and classes are other people's: each is written as a literal of its language. A row in the
shape of the model's inputs stands in them, as at the beginning of a trial.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from shlex import quote as in_shell
from urllib.parse import quote, urlsplit

from pydantic import JsonValue

from fedlas.contract.records import ModelRecord
from service.predict.engine.profile import ServingProfile, TensorSpec
from service.predict.formats.oip_tensors import datatype_name

#: Rows of more numbers are made by the snippet in place of standing in it.
_MAX_NUMBERS = 300
#: A row of so many columns is written by their names.
_MAX_COLUMNS = 30
#: So many class names stand in a snippet.
_MAX_NAMES = 20
_KEY = "FEDLAS_API_KEY"
#: The size that an example gives a dimension that the model leaves open.
_FREE = 4
#: More numbers are not written out.
MAX_NUMBERS = 2000


@dataclass(frozen=True)
class Snippet:
    title: str
    needs: str
    code: str


@dataclass(frozen=True)
class Caller:
    """The sender and the target of a request: the model by its name, at a server, with a key where it needs one."""

    ref: str
    url: str
    with_key: bool

    @property
    def predict_url(self) -> str:
        return f"{self.url}/v1/models/{quote(self.ref, safe='')}/predict"

    @property
    def shell_header(self) -> list[str]:
        """The argument of curl that sends the key."""
        return [f'-H "Authorization: Bearer ${_KEY}"'] if self.with_key else []


def snippets(model: ModelRecord, profile: ServingProfile, caller: Caller) -> Sequence[Snippet]:
    return [
        Snippet("curl", "a shell", _curl(profile, caller)),
        Snippet("Python client", "pip install '.[client]' numpy, in a clone of FedLAS", _client(profile, caller)),
        Snippet("tritonclient", "pip install 'tritonclient[http]'", _triton(profile, caller)),
        Snippet("ONNX Runtime alone", "pip install onnxruntime; no server once it is downloaded", _ort(model, caller)),
    ]


def three_requests(caller: Caller) -> str:
    """The road from a model to its calibrated predictions, under the name of `caller`."""
    jobs, sends_json = f"{caller.url}/v1/jobs", "-H 'Content-Type: application/json'"
    files = "-F model=@m.onnx -F data=@m.onnx.data -F dataset=@rows.csv"
    options = f"""-F 'dataset_options={{"seen_by_model": "no"}}' -F 'job={{"publish_as": "{caller.ref}"}}'"""
    rows = """-d '{"inputs": [[0.1, 0.2]], "probabilities": true}'"""
    requests = [
        [f"curl -s {jobs}", *caller.shell_header, files, options],
        [f"curl -s '{jobs}/job_…?wait=60'", *caller.shell_header],
        [f"curl -s {caller.predict_url}", *caller.shell_header, sends_json, rows],
    ]
    return "\n\n".join(map(_command, requests))


def _curl(profile: ServingProfile, caller: Caller) -> str:
    if profile.preprocessing is not None:
        asked = [f"curl -s {in_shell(f'{caller.predict_url}?top_k={_top_k(profile)}')}", *caller.shell_header]
        return _command([*asked, "-H 'Content-Type: image/png'", "--data-binary @image.png"])
    asked = [f"curl -s {in_shell(caller.predict_url)}", *caller.shell_header, "-H 'Content-Type: application/json'"]
    if sum(prod(row_shape(spec)) for spec in profile.inputs) <= _MAX_NUMBERS:
        body = json.dumps({"inputs": example_inputs(profile), "top_k": _top_k(profile)})
        return _command([*asked, f"-d {in_shell(body)}"])
    arrays = ", ".join(f"{_literal(spec.name)}: {_array(spec, 'numpy')}.tolist()" for spec in profile.inputs)
    written = f'import json, numpy; json.dump({{"inputs": {{{arrays}}}}}, open("rows.json", "w"))'
    return f"python3 -c {in_shell(written)}\n{_command([*asked, '-d @rows.json'])}"


def _client(profile: ServingProfile, caller: Caller) -> str:
    if profile.preprocessing is not None:
        first, rows = ["from pathlib import Path", ""], '[Path("image.png")]'
    elif profile.columns is not None and len(profile.columns) <= _MAX_COLUMNS:
        first, rows = [], _literal(example_inputs(profile))
    else:
        rows = _array(profile.inputs[0]) if len(profile.inputs) == 1 else _mapping(profile.inputs)
        first = ["import numpy as np", ""]
    return "\n".join(
        [
            *first,
            "from fedlas.client import Client",
            "",
            f"client = Client({_literal(caller.url)}){f'  # its key is in {_KEY}' if caller.with_key else ''}",
            f"rows = {rows}",
            f"predictions = client.predict({_literal(caller.ref)}, rows, top_k={_top_k(profile)})",
            "print(predictions.labels, predictions.confidences)",
        ]
    )


def _triton(profile: ServingProfile, caller: Caller) -> str:
    parts = urlsplit(caller.url)
    tls = ", ssl=True" if parts.scheme == "https" else ""
    header = f', headers={{"Authorization": "Bearer " + os.environ["{_KEY}"]}}' if caller.with_key else ""
    return "\n".join(
        [
            *(["import os", ""] if caller.with_key else []),
            "import numpy as np",
            "import tritonclient.http as triton",
            "",
            f"client = triton.InferenceServerClient({_literal(parts.netloc)}{tls})",
            f"arrays = {_mapping(profile.inputs)}",
            f"types = {_literal({spec.name: datatype_name(spec.dtype) for spec in profile.inputs})}",
            "inputs = [triton.InferInput(name, array.shape, types[name]) for name, array in arrays.items()]",
            "for tensor in inputs:",
            "    tensor.set_data_from_numpy(arrays[tensor.name()])",
            f"answer = client.infer({_literal(caller.ref)}, inputs{header})",
            'print(answer.as_numpy("label"), answer.as_numpy("confidence"))',
        ]
    )


def _ort(model: ModelRecord, caller: Caller) -> str:
    specs = [TensorSpec(one.name, one.dtype, tuple(one.shape)) for one in model.inputs or ()]
    file = in_shell(f"{caller.url}/v1/models/{model.id}/onnx")
    download = _command([f"curl -s {file}", *caller.shell_header, "-o model.onnx"])
    first = [
        *(f"# {line}" for line in download.splitlines()),
        "import numpy as np",
        "import onnxruntime",
        "",
        'session = onnxruntime.InferenceSession("model.onnx")',
        f"arrays = {_mapping(specs, rows=_fixed_rows(model))}",
    ]
    if model.origin != "calibrated":
        names = "[output.name for output in session.get_outputs()]"
        return "\n".join([*first, f"print(dict(zip({names}, session.run(None, arrays))))"])
    known = model.class_names or []
    label = "names[probs[0].argmax()]" if len(known) <= _MAX_NAMES else "probs[0].argmax()"
    return "\n".join(
        [
            *first,
            *([f"names = {_literal(list(known))}"] if len(known) <= _MAX_NAMES else []),
            'probs, confidence = session.run(["probabilities", "confidence"], arrays)',
            f"print({label}, confidence[0])",
        ]
    )


def _command(parts: Sequence[str]) -> str:
    return " \\\n  ".join(parts)


def _top_k(profile: ServingProfile) -> int:
    return min(3, len(profile.class_names))


def _fixed_rows(model: ModelRecord) -> int:
    """The rows that an uploaded file takes at once: its batch is freed in the served copy alone."""
    fixed = [one.evidence.get("rows") for one in model.adjustments if one.code == "batch_freed"]
    return next((rows for rows in fixed if isinstance(rows, int) and model.origin == "uploaded"), 1)


def _mapping(specs: Sequence[TensorSpec], *, rows: int = 1) -> str:
    return f"{{{', '.join(f'{_literal(spec.name)}: {_array(spec, rows=rows)}' for spec in specs)}}}"


def _array(spec: TensorSpec, module: str = "np", *, rows: int = 1) -> str:
    """Rows; zeros stand for what is left out where whole numbers are tokens."""
    made = "zeros" if "float" in spec.dtype else "ones"
    return f"{module}.{made}({(rows, *row_shape(spec))!r}, {_literal(spec.dtype)})"


def _literal(value: JsonValue) -> str:
    """The value in Python; what is not seen in a text, such as a mark of direction, is written as an escape."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(name)}: {_literal(part)}' for name, part in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) and value.isprintable() else repr(value)


def example_inputs(profile: ServingProfile) -> JsonValue:
    """The `inputs` of a request for one row: by column, by input, or plain."""
    if len(profile.inputs) > 1:
        return {spec.name: [example_row(spec)] for spec in profile.inputs}
    if profile.columns is not None:
        return [dict.fromkeys(profile.columns, 0.0)]
    return [example_row(profile.inputs[0])]


def example_text(profile: ServingProfile, row: Mapping[str, JsonValue] | None = None) -> str:
    """A row to paste, by default an example: CSV where it is a list of numbers, else JSON; empty where it is long."""
    if sum(prod(row_shape(spec)) for spec in profile.inputs) > MAX_NUMBERS:
        return ""
    spec = profile.inputs[0]
    if len(profile.inputs) > 1:
        return json.dumps(example_inputs(profile) if row is None else {name: [one] for name, one in row.items()})
    values = example_row(spec) if row is None else row[spec.name]
    if len(spec.row) != 1 or not isinstance(values, list):
        return json.dumps([values])
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    if profile.columns is not None:
        writer.writerow(profile.columns)
    writer.writerow(map(cell_text, values))
    return lines.getvalue()


def cell_text(value: JsonValue) -> str:
    """A number as one types it; nothing where it is missing.

    >>> cell_text(0.0), cell_text(1.25), cell_text(16000000), cell_text(None)
    ('0', '1.25', '16000000', '')
    """
    return "" if value is None else f"{value:.7g}" if isinstance(value, float) else str(value)


def row_shape(spec: TensorSpec) -> list[int]:
    return [size if isinstance(size, int) else _FREE for size in spec.row]


def example_row(spec: TensorSpec) -> JsonValue:
    """Zeros, and ones where whole numbers stand for tokens and masks: 0 is what is left out."""
    value: JsonValue = True if spec.dtype == "bool" else 0.0 if "float" in spec.dtype else 1
    for size in reversed(row_shape(spec)):
        value = [value] * size
    return value
