"""Serving processes over a bucket: control fetches the files into the served folder."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from tests.helpers.object_store import ObjectServer
from tests.helpers.publishing import publish
from tests.helpers.served import scaling
from tests.helpers.walled import walled


@pytest.mark.slow
def test_a_model_in_a_bucket_is_served_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of a model outlive their process; a deleted model is 404, and no served copy of it is left."""
    server = ObjectServer()
    try:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with walled(tmp_path / "data", artifacts=f"s3://{server.new_bucket()}/files") as api:
            model = publish(api.registry, "digits", scaling(1))
            url = f"{api.client.base_url}/v1/models/digits/predict"

            def answer() -> httpx.Response:
                return httpx.post(url, json={"inputs": [[1.0, 0.0]]}, timeout=60)

            def copies() -> list[Path]:
                return list((tmp_path / "data" / "run" / "served" / "models").rglob("*.onnx"))

            first = answer()
            assert (first.status_code, first.json()["model"]["id"]) == (200, model)
            assert [file.parent.name for file in copies()] == [model]
            api.follows("serving-1", api.kill("serving-1", signal.SIGKILL))
            assert answer().json()["predictions"] == first.json()["predictions"]
            assert api.client.delete("/v1/names/digits").status_code == 204
            assert api.client.delete(f"/v1/models/{model}").status_code == 204
            assert (answer().status_code, copies()) == (404, [])
    finally:
        server.stop()
