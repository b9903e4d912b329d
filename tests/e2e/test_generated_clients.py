"""Clients that others' generators make of the OpenAPI document: complete, without a warning, and of use."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from service.api.document.building import samples
from tests.helpers.service import FINAL, ROOT, Service
from tests.helpers.uploads import Uploads

pytestmark = pytest.mark.slow

DOCUMENT = ROOT / "openapi" / "openapi.json"
STRICT = ("--strict", "--target", "es2022", "--module", "nodenext", "--types", "node", "--skipLibCheck")
#: Changes of a newer release are found by the next run.
NPM_PACKAGES = ("openapi-typescript@^7", "openapi-fetch@^0.17", "typescript@^5", "@types/node@^22")


def run(command: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with the programs of this environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "npm_config_cache": str(folder / "npm-cache"), "NO_COLOR": "1"}
    return subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )


@pytest.fixture(scope="module")
def python_client(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The package that openapi-python-client makes."""
    folder = tmp_path_factory.mktemp("python")
    arguments = ("--path", DOCUMENT, "--config", ROOT / "openapi/openapi-python-client.yml")
    done = run(["openapi-python-client", "generate", *arguments, "--output-path", folder / "made"], folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr, done.stdout + done.stderr
    (package,) = [path.parent for path in (folder / "made").glob("*/client.py")]
    sys.path.insert(0, str(folder / "made"))
    return importlib.import_module(package.name)


@pytest.fixture(scope="module")
def typescript_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the types that openapi-typescript makes, and with what runs them."""
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    done = run(["npm", "install", "--no-audit", "--no-fund", *NPM_PACKAGES], folder)
    if done.returncode and any(word in done.stderr for word in ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT")):
        pytest.skip("the registry of npm cannot be reached from here")
    assert done.returncode == 0, done.stderr
    made = run(["npx", "openapi-typescript", DOCUMENT, "-o", "schema.d.ts"], folder)
    assert made.returncode == 0, made.stderr
    assert "warn" not in made.stderr.replace("npm warn", "").lower(), made.stderr
    shutil.copy(ROOT / "tests" / "e2e" / "typescript" / "drive.ts", folder)
    return folder


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """A stack that is closed after the test."""
    with ExitStack() as entered:
        yield entered


def test_every_python_module_can_be_imported(python_client: ModuleType) -> None:
    """Every operation has a module, all of them import, and no type of theirs is wrong."""
    document = json.loads(DOCUMENT.read_text())
    operations = {found["operationId"] for item in document["paths"].values() for found in item.values()}
    names = [module.name for module in pkgutil.walk_packages(python_client.__path__, f"{python_client.__name__}.")]
    for name in names:
        importlib.import_module(name)
    assert operations <= {name.rpartition(".")[2] for name in names}
    folder = Path(str(python_client.__file__)).parent
    checked = run([sys.executable, "-m", "mypy", folder.name], folder.parent)
    assert checked.returncode == 0, checked.stdout


def test_python_drives_a_job(python_client: ModuleType, service: Service, uploads: Uploads, stack: ExitStack) -> None:
    """The generated Python client uploads, creates, watches, reads the report, predicts, and gets typed errors."""

    def operation(name: str) -> Any:
        return importlib.import_module(f"{python_client.__name__}.api.{name}").sync

    models = importlib.import_module(f"{python_client.__name__}.models")
    types = importlib.import_module(f"{python_client.__name__}.types")
    made = python_client.Client(base_url=str(service.client.base_url), raise_on_unexpected_status=True, timeout=60)
    client = stack.enter_context(made)

    def file(name: str) -> Any:
        return types.File(payload=BytesIO(uploads[name]))

    model = operation("models.create_model")(client=client, body=file("digits.onnx"), name="python")
    dataset = operation("datasets.create_dataset")(client=client, body=file("digits.npz"))
    body = models.JobRequest(model_id=model.id, dataset_id=dataset.id, method=models.JobRequestMethod.TEMPERATURE)
    job = operation("jobs.create_job")(client=client, body=body)
    while job.status not in FINAL:
        job = operation("jobs.get_job")(job.id, client=client, wait=30)
    assert job.status == "succeeded", job.error
    report = operation("jobs.get_job_report")(job.id, client=client)
    assert report.metrics.uploaded.accuracy.value > 0.5
    events = operation("jobs.list_job_events")(job.id, client=client).data
    assert {type(event).__name__ for event in events} >= {"StatusEvent", "StageEvent"}
    rows = models.PredictRequest(inputs=[[0.0] * 64], top_k=2)
    answer = operation("predictions.predict")(job.calibrated_model_id, client=client, body=rows)
    assert len(answer.predictions[0].top_k) == 2
    missing = operation("models.get_model")("mdl_nothing", client=client)
    assert (type(missing), missing.code) == (models.Problem, "unknown_model")
    diagram = importlib.import_module(f"{python_client.__name__}.api.jobs.get_job_reliability_diagram")
    assert b"<svg" in diagram.sync_detailed(job.id, client=client).content


def sample_files(folder: Path, uploads: Uploads) -> None:
    """The files beside which the samples of the document run."""
    (folder / "model.onnx").write_bytes(uploads["digits.onnx"])
    with np.load(BytesIO(uploads["digits.npz"])) as arrays:
        rows, labels = arrays["x"].reshape(len(arrays["label"]), -1)[:600], arrays["label"][:600]
    header = ",".join(["label", *(f"p{column}" for column in range(rows.shape[1]))])
    lines = [",".join([str(label), *map(str, row)]) for label, row in zip(labels, rows.tolist(), strict=True)]
    (folder / "rows.csv").write_text("\n".join([header, *lines]) + "\n")
    (folder / "rows.json").write_text(json.dumps({"inputs": rows[:2].tolist()}))


def sample(language: str) -> str:
    """The samples in one language, one after the other."""
    return "\n".join(one["source"] for found in samples().values() for one in found if one["lang"] == language)


@pytest.mark.parametrize(("language", "command"), [("Shell", ["bash", "-e"]), ("Python", [sys.executable])])
def test_samples_of_the_document_run(
    language: str,
    command: list[str],
    service: Service,
    uploads: Uploads,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Samples run as they stand, from the upload to calibrated predictions."""
    monkeypatch.setenv("FEDLAS_URL", str(service.client.base_url))
    sample_files(tmp_path, uploads)
    (tmp_path / "sample").write_text(sample(language))
    done = run([*command, "sample"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search("confidence|[0-9]", done.stdout), done.stdout


def test_typescript_samples_of_the_document_run(typescript_client: Path, service: Service, uploads: Uploads) -> None:
    """The samples compile strictly, create a job and predict."""
    model = service.inspected("models", uploads["digits.onnx"], name="sampled")
    rows = service.inspected("datasets", uploads["digits.npz"])
    first = service.calibrated(model, rows, method="temperature", publish_as="digits")
    given = {"url": str(service.client.base_url), "model": model["id"], "rows": rows["id"], "inputs": [[0.0] * 64]}
    head = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in given.items())
    (typescript_client / "sample.ts").write_text(f"export {{}};\n{head}{sample('TypeScript')}console.log(job.id);\n")
    compiled = run(["npx", "tsc", *STRICT, "sample.ts"], typescript_client)
    assert compiled.returncode == 0, compiled.stdout
    done = run(["node", "sample.js"], typescript_client)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] not in ("undefined", first["id"])


def test_typescript_drives_a_job(typescript_client: Path, service: Service, uploads: Uploads) -> None:
    """The generated types hold what is sent and answered, as the compiler and a job say."""
    folder = typescript_client
    for name in ("digits.onnx", "digits.npz"):
        (folder / name).write_bytes(uploads[name])
    compiled = run(["npx", "tsc", *STRICT, "drive.ts"], folder)
    assert compiled.returncode == 0, compiled.stdout
    done = run(["node", "drive.js", str(service.client.base_url), "digits.onnx", "digits.npz"], folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["accuracy"] > 0.5
    assert found["verdict"] in ("trained", "post_hoc", "unchanged", "undetermined")
    assert found["statuses"][0] == "succeeded"
    assert (found["top"], found["code"]) == (2, "unknown_model")


def test_the_example_client_has_right_types(typescript_client: Path) -> None:
    """`examples/client.ts`, which Node runs without a look at its types, compiles strictly."""
    shutil.copy(ROOT / "examples" / "client.ts", typescript_client)
    compiled = run(["npx", "tsc", *STRICT, "--noEmit", "client.ts"], typescript_client)
    assert compiled.returncode == 0, compiled.stdout
