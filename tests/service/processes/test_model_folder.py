"""`fedlas serve --model-dir`: a folder of calibrated files is answered for as the whole service answers for them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import torch

from fedlas.calibrators import TemperatureScaling
from fedlas.contract.profiles import FILE_PROFILE, ModelProfile, ServingCost
from fedlas.deployment import ClassPriors, Deployment
from fedlas.export.graph import add_properties, write_graph
from fedlas.guarantees import Guarantees
from fedlas.importers import load_onnx
from service import cli
from service.predict.engine.calibrated_file import file_profile
from service.predict.engine.profile import UNKNOWN, ServingProfile
from service.processes.model_folder import FolderMistakes, FolderModels
from service.registry.errors import NotFound
from service.server import PAGES
from tests.helpers import ROOT, Json
from tests.helpers.api import MakeApi
from tests.helpers.networks import export, mlp, table
from tests.helpers.plain_http import connected, one
from tests.helpers.processes import die_with_parent, free_port, until
from tests.helpers.publishing import publish
from tests.helpers.served import scaling

NAMES = ["ant", "bee", "cat"]
COLUMNS = [f"c{number}" for number in range(10)]
KEY = "a-key-of-the-tests-0123456789abcdef"
#: `fedlas serve`, which prints the names of all its modules when it is sent SIGUSR1.
_RUN = """
import signal, sys
from service.cli import main
signal.signal(signal.SIGUSR1, lambda *_: print("MODULES", *sys.modules, "END", flush=True))
sys.exit(main(sys.argv[1:]))
"""


def profile(**changes: Any) -> ModelProfile:
    """Profile of the calibrated network, as a job would record it."""
    return ModelProfile.model_validate(
        {
            "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 10]}],
            "output": {"name": "probabilities", "kind": "probabilities"},
            "task": "multiclass",
            "num_classes": 3,
            "class_names": NAMES,
            "class_names_given": True,
            "features": {"layer": "features", "dim": 16},
            "trainable": True,
            "columns": COLUMNS,
            "reading": {"missing": "reject"},
            "cost": ServingCost(sizes="shapes", peak_row_bytes=1000),
            **changes,
        }
    )


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with a temperature as the library writes it, with promises and columns."""
    folder = tmp_path_factory.mktemp("calibrated")
    torch.manual_seed(0)
    classifier = load_onnx(export(mlp().eval(), table(2), folder / "upload.onnx"))
    draws = np.random.default_rng(0)
    probs = draws.dirichlet([0.3, 0.3, 0.3], 500)
    targets = (draws.random((500, 1)) < probs.cumsum(axis=1)).argmax(axis=1)
    priors = ClassPriors(np.array([0.5, 0.3, 0.2]), np.array([0.5, 0.3, 0.2]))
    written = write_graph(
        classifier,
        calibrator=TemperatureScaling(2.5),
        class_names=NAMES,
        deployment=Deployment(priors, np.full(3, 1 / 3)),
    )
    guarantees = Guarantees.fit(probs, targets, class_names=NAMES)
    written.save(folder / "plain.onnx", guarantees=guarantees, metadata={"columns": json.dumps(COLUMNS)})
    return folder / "plain.onnx"


@pytest.fixture(scope="module")
def told(calibrated: Path) -> Path:
    """A copy with its profile inside, as a job leaves it."""
    copy = calibrated.with_name("told.onnx")
    shutil.copy(calibrated, copy)
    add_properties(copy, {FILE_PROFILE: profile().in_file()})
    return copy


class Folder:
    """A running `fedlas serve --model-dir`; its log is read by the test."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self.port = free_port()
        self.log_file = folder.with_name(f"{folder.name}.log")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _RUN, "serve", "--model-dir", folder, "--port", str(self.port), *options],
                cwd=ROOT, env={**clean, **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=die_with_parent(),
            )  # fmt: skip
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        until(self._is_ready, what=f"the folder is served; its log: {self.log}")

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return self.client.get("/v2/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def log(self) -> str:
        """Everything that it has said."""
        return self.log_file.read_text(errors="replace")

    def close(self) -> None:
        """End it by force."""
        self.client.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def folder(told: Path, calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """A process, since what it loads and how it ends is what is promised; `bugs` has two versions, `flat` one."""
    place = tmp_path_factory.mktemp("folder") / "models"
    for file, path in ((told, "bugs/1/model.onnx"), (calibrated, "bugs/2/any.onnx"), (told, "flat.onnx")):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place / path)
    serving = Folder(place)
    yield serving
    serving.close()


def rows(count: int) -> np.ndarray:
    """Rows (N, 10) float32."""
    return np.random.default_rng(1).standard_normal((count, 10)).astype(np.float32)


def test_answers_are_those_of_the_whole_service(folder: Folder, told: Path, make_api: MakeApi) -> None:
    """Predictions, tensors and metadata of a file are equal, options that need its profile included."""
    api = make_api()
    properties = {item.key: item.value for item in onnx.load(told).metadata_props}
    recorded = profile().stored()
    recorded |= {name: json.loads(properties[name]) for name in ("class_priors", "decisions", "guarantees")}
    publish(api.registry, "flat", told.read_bytes(), **recorded)
    objects = [dict(zip(COLUMNS, row, strict=True)) for row in rows(3).tolist()]
    options = {"probabilities": True, "top_k": 2, "decision": {"keep": "alarm_rate"}}
    shifted = {"inputs": objects, "class_priors": {"ant": 0.2, "bee": 0.2, "cat": 0.6}}
    tensor = {"name": "x", "shape": [3, 10], "datatype": "FP32", "data": rows(3).ravel().tolist()}
    for path, content in (
        ("/v1/models/flat/predict", {"inputs": objects, "max_error": 0.9, **options}),
        ("/v1/models/flat/predict", shifted),
        ("/v2/models/flat/infer", {"inputs": [tensor]}),
        ("/v2/models/flat/versions/1/infer", {"inputs": [tensor], "parameters": {"coverage": 0.9}}),
        ("/v1/models/flat/predict", {"inputs": [[1]]}),
    ):
        mine, whole = (client.post(path, json=content) for client in (folder.client, api.client))
        assert mine.status_code == whole.status_code == (422 if content["inputs"] == [[1]] else 200), mine.text
        assert _without_ids(mine.json()) == _without_ids(whole.json())
    for path in ("", "/ready", "/config", "/versions/1", "/versions/1/ready", "/versions/9", "/versions/x"):
        mine, whole = (client.get(f"/v2/models/flat{path}") for client in (folder.client, api.client))
        assert (mine.status_code, mine.json()) == (whole.status_code, whole.json()), path
    assert folder.client.get("/v2").json()["extensions"] == [
        *("binary_tensor_data", "classification", "model_configuration", "statistics"),
    ]
    for path in ("/healthz", "/v2/health/live", "/v2/health/ready", "/v1/nothing"):
        mine, whole = (client.get(path) for client in (folder.client, api.client))
        assert (mine.status_code, mine.json()) == (whole.status_code, whole.json()), path


def _without_ids(answer: Json) -> Json:
    model = {name: value for name, value in answer.get("model", {}).items() if name not in ("id", "calibrated")}
    return {**answer, "model": model}


def test_only_what_serves_is_loaded(folder: Folder) -> None:
    """Neither PyTorch nor database, queue or FastAPI is in the process, after a prediction and a scrape."""
    assert folder.client.post("/v1/models/bugs/predict", json={"inputs": rows(1).tolist()}).status_code == 200
    assert 'fedlas_requests_total{model="bugs",version="2"' in folder.client.get("/metrics").text
    assert folder.client.get("/readyz").json()["checks"] == {"serving": "ok"}
    folder.process.send_signal(signal.SIGUSR1)
    until(lambda: folder.client.get("/healthz").is_success and " END\n" in folder.log, what="it names its modules")
    modules = set(folder.log.partition("MODULES ")[2].partition(" END\n")[0].split())
    assert "onnxruntime" in modules
    assert modules & {"torch", "onnx", "sqlalchemy", "fastapi", "celery", "redis", "pandas", "scipy"} == set()
    assert PAGES not in folder.log


def test_a_request_in_flight_is_answered_after_sigterm(told: Path, tmp_path: Path) -> None:
    """A process with keys, which ends: half of a body has come, the listener closes, and the rest is answered."""
    (tmp_path / "models").mkdir()
    shutil.copy(told, tmp_path / "models" / "model.onnx")
    serving = Folder(tmp_path / "models", "--model-name", "bugs", FEDLAS_API_KEYS=KEY)
    try:
        assert serving.client.get("/v2/models/bugs").status_code == 401
        assert serving.client.post("/v2/models/bugs/infer", json={}).status_code == 401
        serving.client.close()
        body = json.dumps({"inputs": rows(2).tolist()}).encode()
        head = f"POST /v1/models/bugs/predict HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with connected(serving.port) as client:
            client.sendall(head.encode() + body[:20])
            serving.process.terminate()
            until(lambda: _is_closed(serving.port), what="no connection is accepted any more")
            client.sendall(body[20:])
            answer = one(client)
        assert (answer.status, len(answer.json["predictions"])) == (200, 2)
        assert serving.process.wait(30) in (0, -signal.SIGTERM)
    finally:
        serving.close()


def _is_closed(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


Make = Callable[[Path, Path], object]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _twice(folder: Path, told: Path) -> None:
    _write(folder / "a.onnx", told.read_bytes())
    _write(folder / "a" / "1" / "model.onnx", told.read_bytes())


def _all_bad(folder: Path, told: Path) -> None:
    _write(folder / "half.onnx", told.read_bytes()[:-2000])
    _write(folder / "scaled.onnx", scaling(2.0))
    _write(folder / "good.onnx", told.read_bytes())
    _write(folder / "text.onnx", b"no graph")
    _write(folder / "more" / "3" / "notes.txt", b"")
    _write(folder / "other" / "a.onnx", told.read_bytes())
    _write(folder / "other" / "b.onnx", told.read_bytes())
    wrong = onnx.load(told)
    next(item for item in wrong.metadata_props if item.key == FILE_PROFILE).value = '{"inputs": 1}'
    _write(folder / "wrong.onnx", wrong.SerializeToString())
    plain = onnx.load(told)
    del plain.graph.output[:2]
    _write(folder / "plain.onnx", plain.SerializeToString())


@pytest.mark.parametrize(
    ("make", "sentences"),
    [
        (lambda folder, told: folder.rmdir(), ["there is no folder"]),
        (
            lambda folder, told: _write(folder / "read.me", b""),
            ["holds no model; expected NAME.onnx, NAME/model.onnx"],
        ),
        (_twice, [r"two models are called a: .*a\.onnx and a folder"]),
        (
            _all_bad,
            [
                r"more/3 holds no \.onnx file",
                r"other holds a\.onnx, b\.onnx; expected one file",
                r"half\.onnx cannot be served: .*expected a file calibrated by FedLAS",
                r"plain\.onnx cannot be served: it computes confidence, features; .*logits, probabilities, confidence",
                r"scaled\.onnx cannot be served: its metadata names no calibrator; expected a file calibrated",
                r"text\.onnx cannot be served: ONNX Runtime cannot open it, so it is half-written, damaged",
                r"wrong\.onnx cannot be served: its metadata cannot be read .*download it again",
            ],
        ),
    ],
)
def test_every_bad_file_is_named_at_once(
    make: Make, sentences: Sequence[str], told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command ends with 1 and a sentence for each mistake, before it listens."""
    place = tmp_path / "models"
    place.mkdir()
    make(place, told)
    with pytest.raises(FolderMistakes) as error:
        FolderModels.read(place)
    mistakes = error.value.args
    assert len(mistakes) == len(sentences), mistakes
    for sentence in sentences:
        assert any(re.search(sentence, mistake) for mistake in mistakes), (sentence, mistakes)
    assert cli.main(["serve", "--model-dir", str(place)]) == 1
    assert capsys.readouterr().err.splitlines() == [f"fedlas: {one}" for one in mistakes]


@pytest.mark.parametrize(
    ("options", "environment", "sentence"),
    [
        (["--model-dir", "m", "--data-dir", "d"], {}, "without the records of --data-dir"),
        (["--model-name", "bugs"], {}, "--model-name needs --model-dir"),
        (["--model-dir", "m"], {"FEDLAS_WALL": "required"}, "leave out FEDLAS_WALL=required"),
        (["--model-dir", "m"], {"FEDLAS_API_PROCESSES": "2"}, "and FEDLAS_API_PROCESSES"),
    ],
)
def test_what_does_not_go_together_is_refused(
    options: list[str],
    environment: Json,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command ends with 1 and says which of both is to be left out."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["serve", *options]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "versions"),
    [
        (["model.onnx"], ["1"]),
        (["any.onnx", "lost+found/x", ".hidden.onnx"], ["1"]),
        (["any.onnx", "model.onnx"], ["1"]),
        (["2/model.onnx", "10/any.onnx"], ["2", "10"]),
    ],
)
def test_a_named_folder_is_one_model(files: list[str], versions: list[str], told: Path, tmp_path: Path) -> None:
    """KServe gives the name and mounts the model's own folder; its highest version by number answers."""
    for file in files:
        _write(tmp_path / file, told.read_bytes())
    models = FolderModels.read(tmp_path, name="bugs")
    assert {name: list(map(str, numbers)) for name, numbers in models.by_name.items()} == {"bugs": versions}
    assert models.look_up("bugs").version == versions[-1]


def test_a_file_without_profile_is_read_from_its_graph(
    calibrated: Path, told: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Inputs, classes, columns, priors and promises are those of a file with one; the log says what is not known."""
    plain, full = (ServingProfile.of(file_profile(path)) for path in (calibrated, told))
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [f"{calibrated} has no profile"]
    for name in ("inputs", "columns", "class_names", "features", "binary", "positive", "typicality", "preprocessing"):
        assert getattr(plain, name) == getattr(full, name), name
    for each in (plain, full):
        assert each.guarantees is not None
        assert each.priors is not None
        assert each.priors.shares.tolist() == [0.5, 0.3, 0.2]
    assert (full.limits.sizes_follow_shapes, full.limits.row_bytes, full.limits.rows) == (True, 1000, 256)
    assert plain.limits == UNKNOWN


def test_a_file_that_has_changed_is_not_opened(told: Path, tmp_path: Path) -> None:
    """Another file would be answered for by the profile of the first."""
    path = tmp_path / "bugs.onnx"
    shutil.copy(told, path)
    models = FolderModels.read(tmp_path)
    digest = models.look_up("bugs").digest
    with models.file(digest) as found:
        assert found == path
    os.utime(path, ns=(0, 0))
    with pytest.raises(NotFound, match="start the server again"), models.file(digest):
        pass
