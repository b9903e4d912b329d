"""The wall on a machine that lacks a part of it, and what a change of user must not lose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from service.confinement.confinement import CONTROLS, Report
from service.processes import confined, wall
from service.processes.confined import UNPROTECTED
from service.registry.settings import ServiceSettings
from tests.helpers.service import ROOT

WHOLE = dict.fromkeys(CONTROLS, "on: x")
OLD_KERNEL = {**WHOLE, "files": "off: syscall: Function not implemented"}
_START = """
import ctypes, errno, json, os, sys
from pathlib import Path
from service.confinement import confinement, landlock
from service.processes import confined
folder = Path(sys.argv[1])
"""
#: Later needs are loaded first: in some places only root can read the interpreter.
_AS_ANOTHER = """
import encodings.idna, socket
os.setgroups([])
os.setresgid(*3 * [54321])
os.setresuid(*3 * [54321])
landlock.set_dumpable(True)
"""
_CONFINED = f"""
PARTING = ctypes.c_int()
landlock.call("prctl", 1, {int(signal.SIGTERM)})
report = confinement.confine(confined.serving(folder))
landlock.call("prctl", 2, ctypes.byref(PARTING))
try:
    os.listdir("/etc")
    seen = "everything"
except OSError:
    seen = "nothing"
print(json.dumps({{"report": report, "parting": PARTING.value, "seen": seen, "user": os.getuid()}}))
"""


_COUNTED = """
import dataclasses, threading, time
def threads():
    started = 0
    try:
        while started < 100:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            started += 1
    except RuntimeError:
        pass
    return started
(wait, go), (seen, done) = os.pipe(), os.pipe()
if os.fork() == 0:
    os.close(go)
    os.read(wait, 1)
    os.write(done, bytes([threads()]))
    os.read(wait, 1)  # until the other has ended
    os._exit(0)
report = confinement.confine(dataclasses.replace(confined.serving(folder), most_processes=20))
os.write(go, b".")
print(json.dumps({"report": report, "beside": os.read(seen, 1)[0], "own": threads()}), flush=True)
os._exit(0)
"""
_LISTENED = """
import socket
confined.has_gpu = lambda: True
report = confinement.confine(confined.serving(folder))
local = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
local.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
local.bind("\\0cuda-uvmfd-test")
local.listen()
refused = []
for attempt in (
    lambda: local.accept(),
    lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect("\\0cuda-uvmfd-test"),
    lambda: socket.socket(),
    lambda: local.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"12345678"),
    lambda: local.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1),
):
    try:
        attempt()
    except PermissionError:
        refused.append(True)
print(json.dumps({"report": report, "refused": len(refused)}))
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A process of its own that runs this after its imports."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-P", "-c", _START + code, str(folder)],
        cwd=ROOT, env=environment, timeout=60, check=False, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(("report", "missing"), [(WHOLE, 0), (OLD_KERNEL, 1), ({}, len(CONTROLS))])
def test_what_is_missing_is_told_or_refused(
    report: Report, missing: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`preferred` warns once of each control and expects the others; `required` does not start, and says why."""
    assert len(wall.expected(ServiceSettings(data_dir=tmp_path, wall="preferred"), report)) == len(CONTROLS) - missing
    assert capsys.readouterr().out.count("WARNING predictions are answered without this protection") == missing
    required = ServiceSettings(data_dir=tmp_path, wall="required")
    if not missing:
        assert wall.expected(required, report) == list(CONTROLS)
        return
    with pytest.raises(SystemExit, match="FEDLAS_WALL=required") as refused:
        wall.expected(required, report)
    assert "reads only the served folder, writes nothing" in str(refused.value)
    assert "Linux 5.13 or newer with Landlock" in str(refused.value)


def test_a_process_that_lacks_what_the_trial_found_does_not_begin(tmp_path: Path) -> None:
    """A restriction that fails later than at the start is no reason to go on without it."""
    done = run(
        "def denied(*_):\n"
        "    raise OSError(errno.ENOSYS, 'too old')\n"
        "landlock.restrict = denied\n"
        "sys.argv = ['x', 'serving', '--served', str(folder), '--expect', 'files']\n"
        "sys.exit(confined.main())\n",
        tmp_path,
    )
    assert done.returncode == UNPROTECTED, done.stderr
    assert "a protection that this machine has does not hold here: files off: [Errno 38] too old" in done.stdout


@pytest.mark.parametrize("before", ["", _AS_ANOTHER], ids=["as it is", "as another user"])
def test_whoever_starts_it_confines_it(before: str) -> None:
    """The wall confines itself under root and any other user; and the kernel still ends it with its parent."""
    if os.geteuid() != 0 and before:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as name:  # of its own: pytest's folders are closed to other users
        folder = Path(name)
        folder.chmod(0o711)
        done = run(before + _CONFINED, folder)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    if missing := wall.missing(got["report"]):
        pytest.skip(str(missing))
    assert got["parting"] == signal.SIGTERM
    assert got["seen"] == "nothing"
    assert got["user"] != 0


@pytest.mark.parametrize("before", ["", _AS_ANOTHER], ids=["as it is", "as another user"])
def test_threads_of_others_take_no_place_of_its_own(before: str) -> None:
    """A process behind the wall has as many threads as it may, whatever else its user starts."""
    if os.geteuid() != 0 and before:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as name:  # of its own: pytest's folders are closed to other users
        Path(name).chmod(0o711)
        done = run(before + _COUNTED, Path(name))
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    apart = got["report"]["limits"].endswith("processes: 20")  # else without a limit
    assert (got["beside"], got["own"]) == (100, 19 if apart else 100), got


def test_cuda_may_begin_behind_the_wall(tmp_path: Path) -> None:
    """Where there is a GPU a local socket may listen, as CUDA's does; it accepts, connects and delays nothing."""
    done = run(_LISTENED, tmp_path)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    if missing := wall.missing(got["report"]):
        pytest.skip(str(missing))
    assert got["refused"] == 5


def test_no_folder_above_the_data_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it lies inside the code, as in a checkout: a right to one folder holds for all below."""
    code = tmp_path / "code"
    folder = code / "fedlas-data" / "run" / "served"
    folder.mkdir(parents=True)
    (code / "package").mkdir()
    (code / "package" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(code))
    granted = [path for path, _ in confined.serving(folder).grants]
    assert [path for path in granted if folder.is_relative_to(path)] == [folder]
    assert code / "package" in granted
