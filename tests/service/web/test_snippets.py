"""Programs that pages show: whatever inputs, columns and classes are called, each name is a literal."""

from __future__ import annotations

import ast
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from fedlas.contract.records import ModelRecord
from service.predict.engine.profile import ServingProfile
from service.web.snippets import Caller, snippets, three_requests

HOSTILE = "'; reboot #\"\n$(reboot) `id` \\ \u202e {x}"
CALLER = Caller("mdl_1", "https://host:8443", with_key=True)


def programs(caller: Caller = CALLER, **profile: Any) -> dict[str, str]:
    """The programs of a model by their titles."""
    content = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 2]}],
        "class_names": ["a", "b"],
        "num_classes": 2,
        **profile,
    }
    row = {"id": "mdl_1", "name": "m", "bytes": 1, "sha256": "", "version": 1, "origin": "calibrated", "format": "onnx"}
    times = {"created_at": "2026-11-27T05:00:00Z", "status": "ready", "calibrated": True}
    record = ModelRecord.model_validate({**row, **times, **content})
    return {one.title: one.code for one in snippets(record, ServingProfile.of(content), caller)}


def texts(program: str) -> set[Any]:
    """The constants of a Python program, which must be one."""
    return {node.value for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Constant)}


@pytest.mark.parametrize(
    "profile",
    [
        {"columns": [HOSTILE, "b"], "class_names": [HOSTILE, "b"]},
        {
            "inputs": [
                {"name": HOSTILE, "dtype": "float32", "shape": ["N", 2]},
                {"name": "b", "dtype": "int64", "shape": ["N", "T"]},
            ]
        },
        {"inputs": [{"name": HOSTILE, "dtype": "float32", "shape": ["N", 3, 224, 224]}]},
    ],
    ids=["columns", "inputs", "long"],
)
def test_names_are_literals(profile: dict[str, Any]) -> None:
    """Each program can be read, and holds the names whole and nothing of them outside of a literal."""
    found = programs(**profile)
    for title in ("Python client", "tritonclient", "ONNX Runtime alone"):
        assert all("reboot" not in str(text) or text == HOSTILE for text in texts(found[title]))
        assert "\u202e" not in found[title]
    words = shlex.split(found["curl"])
    sent = words[words.index("-d") + 1]
    if sent.startswith("{"):
        assert HOSTILE in _names(json.loads(sent)["inputs"])
    else:
        assert HOSTILE in texts(words[words.index("-c") + 1])


def _names(inputs: Any) -> set[str]:
    return set(inputs if isinstance(inputs, dict) else inputs[0])


def test_the_key_is_read_from_the_environment() -> None:
    """Where keys are needed; without them no program speaks of one."""
    for code in programs().values():
        assert "FEDLAS_API_KEY" in code
    for code in programs(Caller("mdl_1", "http://127.0.0.1:8000", with_key=False)).values():
        assert "FEDLAS_API_KEY" not in code
    assert 'triton.InferenceServerClient("host:8443", ssl=True)' in programs()["tritonclient"]


def test_images_are_sent_as_files() -> None:
    """A model with preprocessing is asked with an image file, where a server prepares it."""
    found = programs(preprocessing={"resize": 8, "channels": 1})
    assert "--data-binary @image.png" in found["curl"]
    assert 'Path("image.png")' in found["Python client"]


def test_a_file_with_a_fixed_batch_is_given_one() -> None:
    """An uploaded file takes the rows that it was exported with; a calibrated one takes any number."""
    freed = {"code": "batch_freed", "message": "", "evidence": {"rows": 8}, "severity": "info"}
    for origin, rows in (("uploaded", 8), ("calibrated", 1)):
        program = programs(origin=origin, adjustments=[freed])["ONNX Runtime alone"]
        assert f"np.zeros(({rows}, 2)" in program


def test_the_first_page_has_the_three_requests_of_readme() -> None:
    """The page of an empty service sends the parts, options and address that README, which is run, sends."""
    shown = shlex.split(three_requests(Caller("mine", "http://127.0.0.1:8000", with_key=True)).replace("\\\n", ""))
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    block = readme[readme.index("F=http://127.0.0.1:8000") :].partition("```")[0]
    run = shlex.split(block.replace("\\\n", "").replace("$F", "http://127.0.0.1:8000"), comments=True)
    files = [word for word in run if word.startswith(("model=", "data=", "dataset=", "dataset_options="))]
    addresses = [word for word in run if word.startswith("http://") and "wait=" not in word]
    assert set(shown) >= {*files, *addresses, "Authorization: Bearer $FEDLAS_API_KEY"}
    assert (shown.count("curl"), len(files), len(addresses)) == (3, 4, 2)
    job, rows = (json.loads(word.removeprefix("job=")) for word in shown if word.startswith(("job={", '{"inputs')))
    assert (job, rows["probabilities"]) == ({"publish_as": "mine"}, True)
