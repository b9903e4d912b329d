"""A process behind the wall that was taken over tries everything from inside; what succeeds the threat model says."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.processes import wall
from tests.helpers.processes import until
from tests.helpers.publishing import publish
from tests.helpers.served import scaling
from tests.helpers.service import ROOT
from tests.helpers.takeover import Takeover
from tests.helpers.walled import WalledApi, walled

Json = dict[str, Any]
FAULTS = "fedlas_serving_faults_total"
KEY, SECRET = "a-key-for-the-tests-0123456789ab", "a-secret-of-control"
BODY = {"inputs": [[1.0, 0.0]]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WalledApi, Takeover, Json]]:
    """A service with keys, two processes of which have the canary in them, and what it shall try."""
    root = tmp_path_factory.mktemp("takeover")
    takeover = Takeover(root / "canary")
    with ExitStack() as stack:
        listening, datagrams = (stack.enter_context(socket.socket(socket.AF_UNIX, kind)) for kind in (1, 2))
        listening.bind(os.path.relpath(root / "unix"))
        listening.listen()
        datagrams.bind(os.path.relpath(root / "datagrams"))
        for path in (root / "unix", root / "datagrams"):
            path.chmod(0o777)
        environment = {**takeover.environment, "AWS_SECRET_ACCESS_KEY": SECRET, "FEDLAS_API_KEYS": KEY}
        api = stack.enter_context(
            walled(root / "data", environment=environment, api_processes=2, api_keys={KEY}, hung_seconds=60)
        )
        api.client.headers["Authorization"] = f"Bearer {KEY}"
        model = publish(api.registry, "digits", scaling(2))
        another = publish(api.registry, "another", scaling(3))
        assert api.client.get("/v2/models/digits/ready").status_code == 200  # opened by both processes
        served = root / "data" / "run" / "served"
        yield api, takeover, {
            "only_channel": False,
            "data": str(root / "data"),
            "copy": str(served / "models" / model / "model.onnx"),
            "keys": str(served / "keys" / "keys.json"),
            "names": str(served / "names"),
            "wished": str(served / "models" / another / "model.json"),
            "run": str(root / "data" / "run"),
            "others_name": "serving-2",
            "beside": str(ROOT / "pyproject.toml"),
            "code": wall.__file__,
            "unix": os.path.relpath(root / "unix"),
            "datagrams": os.path.relpath(root / "datagrams"),
            "port": api.client.base_url.port,
            "pids": {
                "control": api.pid("control"), "its parent": os.getpid(), "another": api.pid("serving-2"),
            },
            "another": another,
        }  # fmt: skip


def needs_all(root: Path) -> None:
    """Skip, saying why, where this machine lacks a protection."""
    if missing := wall.missing(wall.trial(root)):
        pytest.skip(str(missing))


def done(got: Json) -> set[str]:
    """The attempts that were not denied."""
    return {name for name, what in got["found"].items() if what != "denied"}


def test_a_serving_process_reads_the_served_folder_and_reaches_nothing(
    place: tuple[WalledApi, Takeover, Json], tmp_path: Path
) -> None:
    """No file but the served folder, no network, no program, no other process; it answers on."""
    needs_all(tmp_path)
    api, takeover, targets = place
    got = takeover.of(api.pid("serving-1"), targets)
    assert done(got) == {
        *("read its copy", "read the digests of keys", "list names", "thread", "pair of sockets", "file in memory"),
        *("slow itself", "pin itself"),
    }, (done(got), got["found"])
    told = "\n".join(got["environment"].values())
    assert not [word for word in (KEY, SECRET, targets["data"]) if word in told]
    assert set(got["descriptors"]) <= {"socket", "pipe", "other", "folder", "memory"}  # no file of anybody
    assert api.client.post("/v1/models/digits/predict", json=BODY).status_code == 200


def test_the_acceptor_has_its_sockets_and_nothing_else(place: tuple[WalledApi, Takeover, Json], tmp_path: Path) -> None:
    """The acceptor opens no file at all, and starts no thread; and it accepts afterwards."""
    needs_all(tmp_path)
    api, takeover, targets = place
    got = takeover.of(api.pid("acceptor"), targets)
    # Accepted sockets become such that do not wait.
    assert done(got) <= {"thread", "make its channel wait"}, got["found"]
    assert got["found"]["thread"] == "failed with RuntimeError"
    assert KEY not in "\n".join(got["environment"].values())
    assert api.client.post("/v1/models/digits/predict", json=BODY).status_code == 200


def test_what_control_does_for_a_serving_process(place: tuple[WalledApi, Takeover, Json]) -> None:
    """Control puts a served copy into the folder, and answers no question and no request; it gives no place away."""
    api, takeover, targets = place
    got = takeover.of(api.pid("serving-2"), {**targets, "only_channel": True, "others_name": "serving-1"})
    found = got["found"]
    assert found["a connection of its own"] == {"answer": ""}
    assert found["another's place"] == {"answer": ""}
    assert found["wish for another"] == "done"
    assert found["ask what a name means"] == {"answer": None}
    until(lambda: api.client.post("/v1/models/digits/predict", json=BODY).status_code == 200, what="on")


def asked(api: WalledApi, method: str, path: str, body: Json | None = None) -> httpx.Response:
    """An answer over a connection of its own: predictions are answered by the processes in turn."""
    return httpx.request(method, f"{api.client.base_url}/{path}", json=body, headers=api.client.headers, timeout=60)


def predicted(api: WalledApi) -> httpx.Response | None:
    """A prediction; None where its process ended meanwhile."""
    try:
        return asked(api, "POST", "v1/models/digits/predict", BODY)
    except httpx.TransportError:
        return None


def counted(api: WalledApi) -> float:
    """The serving processes that control had ended."""
    text = asked(api, "GET", "metrics").text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(FAULTS))


@pytest.mark.slow
def test_a_half_of_another_release(
    place: tuple[WalledApi, Takeover, Json], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A half's words are refused and reported, no change waits long, it is followed; a parent's are refused, too."""
    needs_all(tmp_path)
    api, takeover, _ = place
    before, faults = api.pid("serving-1"), counted(api)
    assert takeover.of(before, {"another_release": True}) == {}

    assert asked(api, "PATCH", "v1/names/digits", {"default_version": 1}).status_code == 200
    api.follows("serving-1", before)
    assert counted(api) == faults + 1
    present = api.child("control").introductions._present  # type: ignore[union-attr]
    for name in ("control", "acceptor", "serving-2"):
        for message in (b'i{"kind":"gone","name":"serving-2","more":1}\n', b'i{"kind":"greeting"}\n', b"2{}", b"f"):
            present[name].other.send(message)

    def is_well() -> bool:
        answers = [predicted(api) for _ in range(8)]
        return all(answer is not None and answer.status_code == 200 for answer in answers)

    until(is_well, what="all is well")
    assert asked(api, "GET", "v1/models").status_code == 200
    told = capsys.readouterr().out
    for other in ("serving-1", "the parent", "control"):
        assert f"messages of {other} could not be read" in told
    assert "a message cannot be read, which may be of another release" in told
    assert "serving-1 | is ended: it sends what cannot be read here" in told


@pytest.mark.slow  # a flood is one after ten seconds
def test_a_process_that_floods_control_is_ended(
    place: tuple[WalledApi, Takeover, Json], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Others are answered meanwhile; the end is logged and counted, and the next process answers."""
    needs_all(tmp_path)
    api, takeover, _ = place
    faults = counted(api)
    takeover.flood(before := api.pid("serving-1"))

    def ended() -> bool:
        assert api.client.get("/v1/models").status_code == 200
        return api.pid("serving-1") != before

    until(ended, what="the process is ended")
    api.until_ready()
    until(lambda: api.client.post("/v1/models/digits/predict", json=BODY).status_code == 200, what="it answers")
    assert counted(api) == faults + 1
    told = capsys.readouterr().out
    assert "serving-1 | is ended: it floods control with messages" in told
    assert "CRITICAL serving-1 floods control with messages" in told
