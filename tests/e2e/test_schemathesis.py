"""Schemathesis against a running service: requests that fit the document and requests that nearly do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.service import Json, Service

pytestmark = pytest.mark.slow

_CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance"),
)
_SHOWN = 6000


def conform(
    service: Service, folder: Path, *options: str, known: Json | None = None, document: str = "openapi.json"
) -> None:
    """Fail with what schemathesis has found; `known` are values of parameters that exist."""
    lines = [f'"path.{name}" = "{value}"' for name, value in (known or {}).items()]
    hooks = Path(__file__).with_name("schemathesis_hooks.py")
    (folder / "schemathesis.toml").write_text("\n".join([f'hooks = "{hooks}"', "[parameters]", *lines, ""]))
    program = Path(sys.executable).with_name("schemathesis")
    command = [
        *(str(program), "--config-file", str(folder / "schemathesis.toml"), "run"),
        *(f"{str(service.client.base_url).rstrip('/')}/{document}", "--checks", ",".join(_CHECKS), "--seed", "1"),
        *("--suppress-health-check", "all", "--request-timeout", "90", "--warnings", "off", "--no-color", *options),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"})
    shown = "\n".join(line[:500] for line in (done.stdout + done.stderr).splitlines())
    assert done.returncode == 0, shown[-_SHOWN:]


@pytest.mark.timeout(600)  # about ten thousand requests, some of which a worker inspects
@pytest.mark.parametrize("document", ["openapi.json", "openapi-v2.json"])
def test_any_request(own_service: Service, tmp_path: Path, document: str) -> None:
    """Whatever is sent: no 5xx, no status, header or media type that is not documented, no answer beyond its schema."""
    phases = ["--phases", "coverage,fuzzing", "--max-examples", "2", "--exclude-path", "/metrics"]
    conform(own_service, tmp_path, *phases, document=document)


def test_records_that_exist(service: Service, finished: Json, tmp_path: Path) -> None:
    """Records, reports, plans, events and answers of a whole job are as their schemas say."""
    known = {
        "job_id": finished["id"],
        "model_id": finished["calibrated_model_id"],
        "model": "digits",
        "dataset_id": finished["dataset_id"],
        "name": "digits",
        "version": "1",
    }
    reading = ["--include-method", "GET", "--exclude-path-regex", "calibrator_id|batch_id|upload_id|metrics"]
    conform(service, tmp_path, "--phases", "fuzzing", "--max-examples", "2", *reading, known=known)
