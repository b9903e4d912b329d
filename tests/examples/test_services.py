"""Examples that speak to a service: each is run as its first lines say, against one `fedlas serve` that all share.

A function call would not do: what is shown here is a shell, a compiler's language and another service, whose only way
to FedLAS is a socket, and what they do when it is refused, full or closed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.helpers import ROOT
from tests.helpers.command_line import drawn_npz, environment, scaled_model
from tests.helpers.plain_http import connected
from tests.helpers.processes import free_port, until
from tests.helpers.service import Service, serving

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
KEY = "a-key-of-the-examples-0123456789ab"
#: The first is far from every border between classes, the second lies on one.
ROWS = [[30.0, 0.0, 0.0], [0.1, 0.2, 0.0]]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a key, and with room for a single predict request at a time."""
    with serving(
        tmp_path_factory.mktemp("service") / "data", FEDLAS_API_KEYS=KEY, FEDLAS_MAX_INFLIGHT_BYTES="1"
    ) as one:
        one.client.headers["Authorization"] = f"Bearer {KEY}"
        yield one


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that is too sure, rows that the examples send, and rows with wrong labels."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    rows = 12 * rng.normal(size=(2000, 3))
    labels = (rows + rng.gumbel(size=rows.shape)).argmax(axis=1)
    for name, column in (("rows.csv", labels), ("bad.csv", labels + 0.5)):
        table = np.column_stack([rows, column])
        np.savetxt(folder / name, table, fmt="%g", delimiter=",", header="a,b,c,label", comments="")
    (folder / "rows.json").write_text(json.dumps(ROWS))
    (folder / "sharp.onnx").write_bytes(scaled_model(3.0))
    (folder / "exact.onnx").write_bytes(scaled_model(1.0))
    (folder / "many.npz").write_bytes(drawn_npz(test=600))
    (folder / "few.npz").write_bytes(drawn_npz(test=30))
    (folder / "wrong.npz").write_bytes(drawn_npz(test=600, wrong=0.4))
    return folder


def variables(url: str | None, **more: str) -> dict[str, str]:
    """Environment of a process that asks the service at this address, with the programs of this environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return environment(PATH=path, **({"FEDLAS_URL": url, "FEDLAS_API_KEY": KEY} if url else {}), **more)


def run(
    program: str, name: str, *arguments: str, folder: Path, url: str | None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run an example to its end in a folder, with more variables."""
    command = [program, str(EXAMPLES / name), *arguments]
    given = variables(url, **more)
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="session")
def published(service: Service, files: Path) -> subprocess.CompletedProcess[str]:
    """The shell script's run, after which `mine` answers."""
    arguments = ("sharp.onnx", "rows.csv", "mine", "rows.json")
    return run("sh", "calibrate.sh", *arguments, folder=files, url=str(service.client.base_url))


def test_the_shell_script_calibrates_and_predicts(
    published: subprocess.CompletedProcess[str], service: Service
) -> None:
    """The script's stdout is the answer of the API, and stderr names the job's page and the verdict."""
    assert published.returncode == 0, published.stderr
    [job] = service.get("/v1/jobs", name="mine")["data"]
    created, verdict = published.stderr.splitlines()
    assert created == f"{job['id']} is created: {service.client.base_url}/jobs/{job['id']}"
    assert (job["status"], verdict) == ("succeeded", f"verdict: {job['verdict']}")
    answer = json.loads(published.stdout)
    assert answer["model"] == {"id": job["calibrated_model_id"], "name": "mine", "version": 1, "calibrated": True}
    assert answer["predictions"] == service.predict("mine", ROWS, probabilities=True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("sharp.onnx rows.csv mine", 2, "usage: sh calibrate.sh MODEL ROWS NAME INPUTS"),
        ("sharp.onnx no.csv mine rows.json", 1, "calibrate.sh: no.csv: there is no such file"),
        ("sharp.onnx rows.csv .mine rows.json", 1, "calibrate.sh: 422 invalid_request: publish_as: "),
        ("sharp.onnx bad.csv bad rows.json", 1, 'has failed: "error":{"code":"dataset_rejected","message":"'),
    ],
)
def test_the_shell_script_says_why_it_ends(service: Service, files: Path, arguments: str, code: int, said: str) -> None:
    """A wrong command line, a missing file, a refusal and a failed job are a sentence each, and nothing on stdout."""
    done = run("sh", "calibrate.sh", *arguments.split(), folder=files, url=str(service.client.base_url))
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr.splitlines()[-1]


def test_the_shell_script_tells_of_a_service_that_is_away(files: Path) -> None:
    """A closed port is exit code 1, with the address that was asked."""
    url = f"http://127.0.0.1:{free_port()}"
    done = run("sh", "calibrate.sh", "sharp.onnx", "rows.csv", "mine", "rows.json", folder=files, url=url)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"calibrate.sh: {url} cannot be reached")


def test_the_typescript_client_calibrates_and_predicts(service: Service, files: Path) -> None:
    """Node runs it without a compiler: labels and confidences of the API, and a person for those below 0.9."""
    arguments = ("sharp.onnx", "rows.csv", "typed", json.dumps(ROWS))
    done = run("node", "client.ts", *arguments, folder=files, url=str(service.client.base_url))
    assert done.returncode == 0, done.stderr
    sure, unsure = service.predict("typed", ROWS)
    assert done.stdout == f"{sure['label']}\t{sure['confidence']:.3f}\nask a person\t{unsure['confidence']:.3f}\n"
    assert "is created: " in done.stderr


def test_the_typescript_client_shows_a_refusal(service: Service, files: Path) -> None:
    """An error has the status, the stable code and the sentence of the problem."""
    done = run(
        "node", "client.ts", "sharp.onnx", "rows.csv", ".x", "[]", folder=files, url=str(service.client.base_url)
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "422 invalid_request: publish_as: " in done.stderr


@contextmanager
def consumer(url: str) -> Iterator[httpx.Client]:
    """The consumer as a process, for the service at this address, and a client for it."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "consumer:app", "--app-dir", str(EXAMPLES), "--port", str(port)]
    process = subprocess.Popen(command, env=variables(url), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)

    def is_ready() -> bool:
        try:
            return client.get("/openapi.json").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(is_ready, what="the consumer answers")
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="session")
def asking(service: Service, published: subprocess.CompletedProcess[str]) -> Iterator[httpx.Client]:
    """A client of the consumer that asks the shared service."""
    assert published.returncode == 0, published.stderr
    with consumer(str(service.client.base_url)) as client:
        yield client


def triage(client: httpx.Client, row: list[float]) -> dict[str, object]:
    """The consumer's decision."""
    return dict(client.post("/triage", json={"row": row}).raise_for_status().json())


def test_the_consumer_accepts_above_the_threshold_and_asks_a_person_below(
    asking: httpx.Client, service: Service
) -> None:
    """Decisions are those of the promise that the published model makes for 5 % errors; a wrong row is the caller's."""
    sure, unsure = service.predict("mine", ROWS, max_error=0.05)
    assert (sure["abstain"], unsure["abstain"]) == (False, True)
    for row, answer, action, reason in (
        (ROWS[0], sure, "accept", "promised"),
        (ROWS[1], unsure, "review", "below_threshold"),
    ):
        expected = {"label": answer["label"], "confidence": answer["confidence"]}
        assert triage(asking, row) == {"action": action, "reason": reason, **expected}
    refused = asking.post("/triage", json={"row": [1.0]})
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith("input 'x': found rows of shape [1]; expected rows of shape [3]")


@contextmanager
def filled(service: Service) -> Iterator[None]:
    """A service whose memory for predict requests is taken by one that goes on arriving.

    The one that shall take it is refused itself where it meets another, so one is sent before each look.
    """
    url = service.client.base_url
    head = f"POST /v1/models/mine/predict HTTP/1.1\r\nHost: {url.host}\r\nAuthorization: Bearer {KEY}\r\n"
    beginning = f"{head}Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n{' ' * 1000}".encode()
    with ExitStack() as arriving:

        def is_full() -> bool:
            arriving.enter_context(connected(url.port or 0)).sendall(beginning)
            return refused_by(service)

        until(is_full, what="the service is full")
        yield
    until(lambda: not refused_by(service), what="the service is free again")


def refused_by(service: Service) -> bool:
    """True where a predict request is answered with 429."""
    return service.client.post("/v1/models/mine/predict", json={"inputs": ROWS}).status_code == 429


def test_the_consumer_falls_back_while_the_service_is_full(asking: httpx.Client, service: Service) -> None:
    """429 is tried again a few times and then is a case for a person, within the deadline of the consumer's callers."""
    with filled(service):
        decision = triage(asking, ROWS[0])
    assert decision == {"action": "review", "reason": "overloaded", "label": None, "confidence": None}
    assert triage(asking, ROWS[0])["action"] == "accept"


def test_the_consumer_tries_again_as_the_service_asks(asking: httpx.Client, service: Service) -> None:
    """A service that is free again before the second try answers the same request."""
    with ThreadPoolExecutor(1) as thread:
        with filled(service):
            refusals = service.log.count("/v1/models/mine/predict 429")
            decision = thread.submit(triage, asking, ROWS[0])
            until(lambda: service.log.count("/v1/models/mine/predict 429") > refusals, what="the consumer was refused")
        assert decision.result(60)["action"] == "accept"


def test_the_consumer_goes_on_while_the_service_is_away() -> None:
    """A port that nobody listens on is a case for a person, too."""
    with consumer(f"http://127.0.0.1:{free_port()}") as client:
        decision = triage(client, ROWS[0])
    assert decision == {"action": "review", "reason": "server_unreachable", "label": None, "confidence": None}


@pytest.mark.parametrize(
    ("files_given", "required", "served", "code", "said"),
    [
        (("sharp.onnx", "many.npz"), "significant", True, 0, "pass: deploy calibrated.onnx"),
        (("exact.onnx", "wrong.npz"), "calibrated", False, 0, "pass: the test rows show nothing better"),
        (("sharp.onnx", "few.npz"), "significant", False, 5, "stop: calibrated, but the test rows do not prove it"),
        (("sharp.onnx", "no.npz"), "calibrated", False, 1, "stop: fedlas calibrate ended with 1"),
    ],
)
def test_the_gate_of_a_pipeline(
    service: Service,
    files: Path,
    tmp_path: Path,
    files_given: tuple[str, str],
    required: str,
    served: bool,
    code: int,
    said: str,
) -> None:
    """The gate ends as its table says, by a service or without one, and leaves the file to deploy with its report."""
    paths = [str(files / name) for name in files_given]
    url = str(service.client.base_url) if served else None
    done = run("sh", "ci_gate.sh", *paths, "--method", "temperature", folder=tmp_path, url=url, FEDLAS_REQUIRE=required)
    assert (done.returncode, said in done.stdout) == (code, True), (done.stdout, done.stderr)
    written = [] if code == 1 else ["calibrated.onnx", "report.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == written


def test_the_list_names_every_example() -> None:
    """A line each, whose link is the file; those of services have at most 80 lines."""
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    names = [path.name for path in EXAMPLES.iterdir() if path.is_file() and path.name != "README.md"]
    assert [name for name in names if listed.count(f"]({name})") != 1] == []
    short = ("calibrate.sh", "consumer.py", "client.ts", "ci_gate.sh")
    assert [name for name in short if len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) > 80] == []
