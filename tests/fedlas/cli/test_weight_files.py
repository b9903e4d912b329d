"""Files as `torch.onnx.export` writes them, a graph and the file of its weights, go in by every door of a service."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedlas.client import Client
from tests.fedlas.cli.conftest import KEY, Here
from tests.fedlas.cli.test_failures import one_sentence
from tests.helpers.command_line import drawn_rows
from tests.helpers.service import Service


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Logits (N, 3) are three times the inputs, by weights that are too many for the graph's own file."""
    first, second = nn.Linear(3, 96, bias=False), nn.Linear(96, 3, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.eye(96, 3))
        second.weight.copy_(3 * torch.eye(3, 96))
    return nn.Sequential(first, second).eval()


@pytest.fixture(scope="module")
def graph(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of its default export, with its weights beside it."""
    path = tmp_path_factory.mktemp("export") / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own
        torch.onnx.export(network, (torch.zeros(2, 3),), path, verbose=False)
    assert (path.parent / "m.onnx.data").stat().st_size == 2 * 96 * 3 * 4
    return path


@pytest.mark.slow
def test_a_default_export_works(service: Service, here: Here, files: Path, graph: Path, network: nn.Module) -> None:
    """Parts of one HTTP request make a job; client and command line send one file, and the model answers as before."""
    parts = {"model": graph, "data": graph.with_name("m.onnx.data"), "dataset": files / "many.npz"}
    order = {"job": json.dumps({"method": "temperature"}), "dataset_options": json.dumps({"seen_by_model": "no"})}
    sent = {name: (path.name, path.read_bytes()) for name, path in parts.items()}
    answer = service.client.post("/v1/jobs", files=sent, data=order)
    assert answer.status_code == 202, answer.text
    uploaded = here("models", "upload", graph, "--json")
    assert uploaded.returncode == 0, uploaded
    with Client(str(service.client.base_url), KEY) as client:
        again = client.models.upload(graph, wait=False)
    job = service.ended(answer.json()["id"])
    assert (job["status"], job["verdict"]) == ("succeeded", "post_hoc"), job
    record = service.get(f"/v1/models/{job['model_id']}")
    assert again.sha256 == json.loads(uploaded.stdout)["sha256"]
    rows = drawn_rows(test=600)[0][:5]
    expected = network(torch.from_numpy(rows)).softmax(dim=1).max(dim=1).values.detach()
    found = [one["confidence"] for one in service.predict(record["id"], rows.tolist())]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_it_is_calibrated_without_a_server(here: Here, graph: Path, tmp_path: Path) -> None:
    """In this process the weights are read beside the graph."""
    out = tmp_path / "out.onnx"
    done = here("calibrate", graph, "many.npz", "--local", "--method", "temperature", "--out", out, "-q")
    assert (done.returncode, done.stdout) == (0, "post_hoc\n"), done


@pytest.mark.parametrize(
    "command", [("models", "upload", "m.onnx"), ("calibrate", "m.onnx", "d"), ("calibrate", "m.onnx", "d", "--local")]
)
def test_missing_weights_are_named_before_anything_is_sent(
    command: tuple[str, ...], service: Service, here: Here, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names both files and the way to one, and the service has heard of neither."""
    (tmp_path / "m.onnx").write_bytes(graph.read_bytes())
    (tmp_path / "d").write_bytes(b"x,label\n1,0\n2,1\n")
    monkeypatch.chdir(tmp_path)
    before = service.get("/v1/models", limit=1)["data"]
    said = one_sentence(here(*command).stderr)
    assert said.startswith("m.onnx")
    assert "m.onnx.data" in said
    assert 'onnx.save(onnx.load("m.onnx"), "one.onnx")' in said
    assert service.get("/v1/models", limit=1)["data"] == before
