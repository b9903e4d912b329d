"""Whatever goes wrong is one sentence of the client's own family."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

import fedlas
from fedlas.client import Client, errors
from fedlas.client.transport import Call
from fedlas.errors import FedLASError
from tests.helpers import backends
from tests.helpers.answering import Asked, Told, answering
from tests.helpers.live_api import live
from tests.helpers.processes import free_port

pytestmark = pytest.mark.slow

KEY = "the-right-key-of-all-0123456789a"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An API that wants a key."""
    with backends.place(tmp_path_factory.mktemp("api") / "data") as place, live({**place, "api_keys": KEY}) as apis:
        yield apis[0].url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """A client of it."""
    with Client(url, KEY) as opened:
        yield opened


@contextmanager
def in_turn(*answers: Told) -> Iterator[tuple[str, list[str]]]:
    """Another server, which gives these answers in turn, the last for ever; and what it was asked."""
    asked: list[str] = []
    left = list(answers)

    def answer(request: Asked) -> Told:
        asked.append(f"{request.method} {request.path} {request.headers.get('idempotency-key', '')}".strip())
        return left.pop(0) if len(left) > 1 else left[0]

    with answering(answer) as where:
        yield where, asked


JSON = {"content-type": "application/json"}
PROBLEM = {"content-type": "application/problem+json"}
OPENAPI = b'{"info": {"title": "FedLAS service", "version": "9.9.9"}}'
PAGE = b'{"data": [], "has_more": false, "next": null}'


def test_nobody_is_there() -> None:
    """A wrong port is an error with the URL, and what to do."""
    where = f"http://127.0.0.1:{free_port()}"
    with Client(where) as client, pytest.raises(errors.APIConnectionError) as caught:
        client.models.get("mdl_1")
    assert str(caught.value) == (
        f"no connection to {where}: Connection refused; is it running, and is this its URL (FEDLAS_URL)? "
        "`fedlas serve` starts one"
    )
    assert isinstance(caught.value, FedLASError)
    with Client("http://nobody.invalid") as client, pytest.raises(errors.APIConnectionError, match="no connection to"):
        client.models.get("mdl_1")


def test_the_key_is_wrong(url: str) -> None:
    """No key and a wrong one differ from every other error, with the id in the server's log."""
    for key in (None, "wrong-key"):
        with Client(url, key) as client, pytest.raises(errors.AuthenticationError, match="FEDLAS_API_KEY") as caught:
            client.models.get("mdl_1")
        assert (caught.value.status, bool(caught.value.request_id)) == (401, True)


def test_another_server_is_there() -> None:
    """A page, a redirect and JSON of something else are no answers of this service."""
    for answer in (
        (200, {"content-type": "text/html"}, b"<html>hello</html>"),
        (404, {"content-type": "text/html"}, b"<html>nothing</html>"),
        (200, JSON, b'{"hello": "world"}'),
        (501, {"content-type": "text/html"}, b"<html>unsupported method</html>"),
        (401, {"content-type": "text/html"}, b"<html>sign in</html>"),
        (302, {"location": "https://elsewhere.example/"}, b""),
    ):
        sentence = r"does not look like a FedLAS service; check the URL$"
        with (
            in_turn(answer) as (where, _),
            Client(where) as client,
            pytest.raises(errors.ServerMismatch, match=sentence),
        ):
            client.models.get("mdl_1")


def test_the_server_is_of_another_version() -> None:
    """A route that it does not have, a record and a prediction that cannot be read name both versions."""
    missing = (404, PROBLEM, b'{"code": "not_found", "detail": "Not Found", "status": 404, "title": "Not Found"}')
    row = (200, JSON, b'{"model": {"id": "m", "name": "m", "version": 1, "calibrated": true}, "predictions": [{}]}')
    for first, found in ((missing, "with 404"), ((200, JSON, b'{"id": 7}'), "in which id"), (row, "in which label")):
        with in_turn(first, (200, JSON, OPENAPI)) as (where, asked), Client(where) as client:
            with pytest.raises(errors.ServerMismatch, match=found) as caught:
                client.predict("m", [[1.0]]) if first is row else client.models.get("mdl_1")
            assert str(caught.value).endswith(f"the server is version 9.9.9, this client is {fedlas.__version__}")
            assert [one.split()[1] for one in asked][1:] == ["/openapi.json"]


def test_what_passes_is_tried_again() -> None:
    """408, 429, 5xx and a request still in flight are sent again under the same key; what stays is raised."""
    flight = (409, {**PROBLEM, "retry-after": "0"}, b'{"code": "idempotency_key_in_flight", "detail": "wait"}')
    busy = (429, {**PROBLEM, "retry-after": "0"}, b'{"code": "overloaded", "detail": "too many rows wait"}')
    record = b'{"id": "bat_1", "attempts": 0, "created_at": "2026-05-04T10:00:00Z", "dataset_id": "ds_1",'
    record += b' "model_id": "mdl_1", "progress": {}, "status": "queued"}'
    stalled, gone = (408, {"retry-after": "0"}, b""), (503, {"retry-after": "0"}, b"")
    with in_turn(flight, busy, stalled, gone, flight, (202, JSON, record)) as (where, asked), Client(where) as client:
        assert client.batches.create("mdl_1", "ds_1").id == "bat_1"
    assert len(asked) == 6
    assert len(set(asked)) == 1
    assert len(asked[0].split()) == 3
    for answer, tries, kind in (
        (busy, 3, errors.RateLimitError),
        (gone, 3, errors.ServerError),
        ((409, PROBLEM, b'{"code": "in_use", "detail": "it is in use"}'), 1, errors.ConflictError),
        ((422, PROBLEM, b'{"code": "bad", "detail": "no"}'), 1, errors.InvalidRequestError),
        ((429, {**PROBLEM, "retry-after": "3600"}, busy[2]), 1, errors.RateLimitError),
        ((504, PROBLEM, b'{"code": "deadline_exceeded", "detail": "late"}'), 1, errors.ServerError),
    ):
        with in_turn(answer) as (where, asked), Client(where, max_retries=2) as client:
            with pytest.raises(kind):
                client.names.promote("digits", 2)
            assert len(asked) == tries, answer


def test_a_call_is_tried_for_a_while() -> None:
    """A try begins within 120 seconds of the call, or within those of a try; those in flight do not count."""
    assert [Call("GET", "/").failed(delay, 3) for delay in (0, 119, 121)] == [True, True, False]
    assert Call("POST", "/", timeout=600).failed(500, 3)
    call = Call("POST", "/")
    flights = (False, True, True, False, False, False)
    assert [call.failed(0, 3, in_flight=one) for one in flights] == [True, True, True, True, True, False]
    asks = (429, {**PROBLEM, "retry-after": "121"}, b'{"code": "overloaded", "detail": "too many rows wait"}')
    with in_turn(asks) as (where, asked), Client(where) as client:
        with pytest.raises(errors.RateLimitError):
            client.models.get("mdl_1")
        assert len(asked) == 1


def test_a_server_that_says_nothing() -> None:
    """Where the caller gave the answer a time, a silent server is asked once; nobody waits for three."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(where) as client, pytest.raises(errors.APIConnectionError, match="did not answer in time"):
            client.predict("digits", [[1.0]], deadline=0.1)
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_an_event_that_cannot_be_read_is_said() -> None:
    """The error names both versions, as with any other answer."""
    stream = {"content-type": "text/event-stream"}
    sentence = r"an event is not as expected: the server is version 9\.9\.9"
    for data in (b"data: {\n\n", b"data: {}\n\n"):
        with in_turn((200, stream, data), (200, JSON, OPENAPI)) as (where, _), Client(where) as client:
            events = client.jobs.events("job_1")
            with pytest.raises(errors.ServerMismatch, match=sentence):
                list(events)


def test_uploads_that_are_gone_are_said(tmp_path: Path) -> None:
    """The server's own word, where it has forgotten an upload after the connection was lost."""
    (tmp_path / "large.bin").write_bytes(bytes(9_000_000))
    record = b'{"id": "upl_1", "bytes": 9000000, "offset": 0, "created_at": "2026-05-04T10:00:00Z",'
    record += b' "expires_at": "2026-05-05T10:00:00Z"}'
    busy = (409, {**PROBLEM, "retry-after": "0"}, b'{"code": "upload_busy", "detail": "wait"}')
    gone = (404, PROBLEM, b'{"code": "unknown_upload", "detail": "there is no upload upl_1"}')
    with in_turn((201, JSON, record), busy, gone) as (where, _), Client(where) as client:
        path = tmp_path / "large.bin"
        with pytest.raises(errors.NotFoundError, match="there is no upload upl_1"):
            client.datasets.upload(path)


def test_what_is_wrong_has_a_field(client: Client) -> None:
    """The server's code, sentence and fields come through."""
    with pytest.raises(errors.InvalidRequestError) as caught:
        client.jobs.create("mdl_1", "ds_1", method="magic", seed=-1)  # type: ignore[arg-type]
    error = caught.value
    assert (error.code, error.status, error.field) == ("invalid_request", 422, error.errors[0].field)
    assert {found.field for found in error.errors} == {"method", "seed"}
    assert error.detail == str(error)
    with pytest.raises(errors.NotFoundError) as missing:
        client.models.get("mdl_1")
    assert (missing.value.code, missing.value.field) == ("unknown_model", None)


def test_what_json_has_no_word_for_is_refused_here(client: Client) -> None:
    """NaN and objects in a request are refused with their field; an empty id asks for nothing."""
    for options, field in (
        ({"expected_accuracy": float("nan")}, "expected_accuracy"),
        ({"class_priors": {"0": 0.5, "1": float("inf")}}, "class_priors.1"),
        ({"metadata": {"a": object()}}, "metadata.a"),
    ):
        with pytest.raises(errors.InvalidInput, match=f"^{field}: found ") as caught:
            client.jobs.create("mdl_1", "ds_1", **options)  # type: ignore[arg-type]
        assert caught.value.field == field
    with pytest.raises(errors.InvalidInput, match="abstain_below: found nan"):
        client.predict("digits", [[1.0]], abstain_below=float("nan"))
    for call in (client.models.delete, client.jobs.get, client.names.delete, client.batches.results):
        with pytest.raises(errors.InvalidInput, match="the id or name is empty"):
            call("")


def test_only_files_are_written_over(client: Client, tmp_path: Path) -> None:
    """A link's target is written and the link stays; a device and a folder are refused."""
    (tmp_path / "m.bin").write_bytes(b"m")
    model = client.models.upload(tmp_path / "m.bin", wait=False)
    (tmp_path / "link.onnx").symlink_to(tmp_path / "real.onnx")
    assert client.models.download(model, tmp_path / "link.onnx").read_bytes() == b"m"
    assert (tmp_path / "link.onnx").is_symlink()
    assert (tmp_path / "real.onnx").read_bytes() == b"m"
    for device in (Path("/dev/null"), Path("/dev/full")):
        with pytest.raises(errors.FileError, match=f"^{device} is a device or a pipe, expected a file$"):
            client.models.download(model, device)
        assert device.is_char_device()


def test_errors_go_to_other_processes(client: Client) -> None:
    """Pickled, they come back as they were."""
    with pytest.raises(errors.InvalidRequestError) as caught:
        client.jobs.create("mdl_1", "ds_1", method="magic")  # type: ignore[arg-type]
    for error in (
        caught.value,
        errors.APIConnectionError("gone"),
        errors.JobFailed("bad", "no", record={"id": "job_1"}),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


_FORK = """
import os, sys
from fedlas.client import Client
client = Client(sys.argv[1], sys.argv[2])
client.server()
child = os.fork()
names = {client.server().name for _ in range(100)}
assert names == {"fedlas"}, names
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_fork_has_connections_of_its_own(url: str) -> None:
    """Both sides go on asking, and no answer of the other's is taken for one's own."""
    done = subprocess.run([sys.executable, "-c", _FORK, url, KEY], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_key_stays_with_its_client(url: str) -> None:
    """Two clients over one of httpx's each send their own key, and it keeps none."""
    with httpx.Client() as http:
        right, wrong = Client(url, KEY, http=http), Client(url, "wrong", http=http)
        assert right.server().name == "fedlas"
        with pytest.raises(errors.AuthenticationError):
            wrong.server()
        assert right.server().name == "fedlas"
        assert "authorization" not in http.headers
    with pytest.raises(errors.InvalidInput, match="has been closed"):
        right.server()


def test_a_page_is_no_model(tmp_path: Path) -> None:
    """A page that a portal answers in place of a file is not kept under its name."""
    page = (200, {"content-type": "text/html"}, b"<html>sign in</html>")
    for answers in ([page], [(200, {}, b"bytes"), (200, JSON, OPENAPI)]):
        with in_turn(*answers) as (where, _), Client(where) as client:
            target = tmp_path / "m.onnx"
            with pytest.raises(errors.ServerMismatch, match="which is no file of the service's"):
                client.models.download("mdl_1", target)
    assert list(tmp_path.iterdir()) == []


def test_local_files_are_looked_at_first(client: Client, tmp_path: Path) -> None:
    """A file that is not there, a folder, an empty file: each in a sentence, before anything is sent."""
    (tmp_path / "empty.onnx").touch()
    for path, code, sentence in (
        (tmp_path / "none.onnx", "no_such_file", f"there is no file {tmp_path}/none.onnx"),
        (tmp_path, "not_a_file", f"{tmp_path} is a folder, expected a file"),
        (tmp_path / "empty.onnx", "empty_file", f"{tmp_path}/empty.onnx is empty"),
    ):
        with pytest.raises(errors.FileError) as caught:
            client.models.upload(path)
        assert caught.value.code == code
        assert str(caught.value).startswith(sentence)
    with pytest.raises(errors.InvalidInput, match=r"a model is needed: .*; found None"):
        client.models.upload(None)
    assert not {"none", "empty"} & {model.name for model in client.models.list()}


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (np.zeros((0, 3)), "inputs have no rows"),
        ([], "inputs have no rows"),
        ({"x": []}, "inputs have no rows"),
        ("a sentence", "inputs are of type str; expected rows"),
        (pd.DataFrame({"a": [1.0, float("inf")]}), "inputs hold infinity"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "the frame has several columns of one name"),
        (np.ma.masked_array([[1, 2]], [[True, False]]), "inputs of int64 are masked"),
        (np.array([[1j]]), "inputs are an array of complex128"),
        (3, "inputs are of type int; expected rows"),
        (np.float64(3), "inputs are the single value 3.0"),
        ([[float("inf")]], "inputs hold infinity"),
        ([[object()]], "inputs hold something of type object"),
        ([Path("/no/such.png")], "there is no file /no/such.png"),
    ],
)
def test_inputs_that_cannot_be_sent(client: Client, inputs: Any, sentence: str) -> None:
    """Inputs that cannot be sent are refused here, in a sentence."""
    with pytest.raises(errors.ClientError, match=sentence):
        client.predict("digits", inputs)


_FULL = """
import resource, signal, sys
from fedlas.client import Client, errors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    Client(sys.argv[1], sys.argv[2]).models.download(sys.argv[3], sys.argv[4])
except errors.FileError as error:
    print(error.code, error)
"""


def test_a_full_disk_leaves_nothing_behind(client: Client, url: str, tmp_path: Path) -> None:
    """A write that the disk refuses is reported with the path, and no half file stays."""
    (tmp_path / "m.bin").write_bytes(bytes(100_000))
    model = client.models.upload(tmp_path / "m.bin", wait=False)
    target = tmp_path / "out" / "m.onnx"
    target.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _FULL, url, KEY, model.id, str(target)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"unwritable_file {target} cannot be written: File too large"
    assert list(target.parent.iterdir()) == []
    with pytest.raises(errors.FileError, match="cannot be written: No such file or directory"):
        client.models.download(model, tmp_path / "nowhere" / "m.onnx")


def test_the_family_is_one() -> None:
    """Every error is caught by the base of the library, is no ValueError, and can be imported from `fedlas.client`."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ClientError)]
    assert errors.__doc__ is not None
    for kind in kinds:
        assert issubclass(kind, FedLASError)
        assert not issubclass(kind, ValueError)
        assert getattr(fedlas.client, kind.__name__) is kind
        assert kind.__name__ in errors.__doc__
