"""Limits of a sandboxed child, tried in real processes: as root, as others, and with walls missing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedlas.contract.options import ModelOptions
from tests.helpers import uploads as made
from tests.helpers.service import ROOT, children_of, is_alive, until
from worker.documents import InspectModelOrder
from worker.sandbox import confinement
from worker.sandbox import process as sandbox
from worker.sandbox.process import ChildOutcome, read_outcome
from worker.sandbox.protocol import ChildRequest, Limits

Json = dict[str, Any]
_BEFORE = """
import ctypes, errno, json, os, resource, socket, subprocess, sys
from pathlib import Path
from worker.documents import InspectModelOrder, ModelOptions
from worker.sandbox import confinement
from service.confinement import confinement as controls
from service.confinement import landlock, seccomp
folder, given, secret, broker = map(Path, sys.argv[1:5])
IOPRIO_SET = seccomp.NUMBERS["ioprio_set"][seccomp.COLUMNS[os.uname().machine]]

def denied(reason="no such thing here"):
    def deny(*_):
        raise OSError(errno.ENOSYS, reason)
    return deny
"""
_TRYING = """
report = confinement.confine(folder, [given])
found = {}

def attempt(name, action):
    try:
        action()
        found[name] = "done"
    except BaseException as error:
        found[name] = type(error).__name__
"""
_AFTER = """
print(json.dumps({"report": report, "found": found, "user": os.getuid(), "groups": os.getgroups()}))
"""


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Path, ...]]:
    """A child's folder, its input, a file of somebody else and the broker's socket, all in one data folder."""
    folder, given, secret, broker = (tmp_path / name for name in ("work", "given", "secret", "broker"))
    folder.mkdir(0o700)
    for file in (given, secret):
        file.write_text("words")
        file.chmod(0o600)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(broker))
        listening.listen()
        yield folder, given, secret, broker


def tried(places: tuple[Path, ...], attempts: str, *, before: str = "") -> Json:
    """The findings of a fresh process that confines itself and then makes these attempts."""
    code = _BEFORE + before + _TRYING + attempts + _AFTER
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, places)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(places[0])}, timeout=60, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def needs(report: Json, *controls: str) -> None:
    """Skip, saying why, where this machine lacks a control."""
    missing = {name: report[name] for name in controls if report[name].startswith("off")}
    if missing:
        pytest.skip(f"not on this machine: {missing}")


FILES = """
attempt("read its input", given.read_text)
attempt("write its folder", lambda: (folder / "own").write_text("x"))
attempt("make a folder", lambda: (folder / "inner").mkdir())
attempt("import", lambda: __import__("sqlite3"))
attempt("run a program", lambda: subprocess.run(["/bin/true"], check=True))
attempt("use /dev/null", lambda: open("/dev/null", "w").write("x"))
attempt("semaphore", lambda: __import__("multiprocessing").get_context("spawn").Lock())
attempt("write its input", lambda: given.write_text("y"))
attempt("delete its input", given.unlink)
attempt("read another file", secret.read_text)
attempt("list the data", lambda: os.listdir(secret.parent))
attempt("read passwords", lambda: open("/etc/shadow").read())
attempt("write elsewhere", lambda: (secret.parent / "new").write_text("x"))
attempt("write code", lambda: Path(confinement.__file__).open("a"))
attempt("symbolic link", lambda: os.symlink(secret, folder / "link"))
attempt("hard link", lambda: os.link(secret, folder / "link2"))
attempt("device", lambda: os.mknod(folder / "device", 0o020600, os.makedev(1, 3)))
attempt("environment of others", lambda: open(f"/proc/{os.getppid()}/environ").read())
"""
_MAY = ("read its input", "write its folder", "make a folder", "import", "run a program", "use /dev/null", "semaphore")


def test_only_inputs_are_read_and_only_the_folder_is_written(places: tuple[Path, ...]) -> None:
    """A child reads its inputs and libraries, writes its folder, and touches nothing else of the machine."""
    outcome = tried(places, FILES)
    needs(outcome["report"], "files")
    assert {name for name, what in outcome["found"].items() if what == "done"} == set(_MAY), outcome
    assert places[1].read_text() == places[2].read_text() == "words"
    assert not (places[0].parent / "new").exists()


CALLS = """
attempt("TCP", lambda: socket.create_connection(("127.0.0.1", 1), timeout=5))
attempt("UDP", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
attempt("IPv6", lambda: socket.socket(socket.AF_INET6))
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("the broker", lambda: socket.socket(socket.AF_UNIX).connect(os.path.relpath(broker, Path.cwd())))
attempt("new session", os.setsid)
attempt("new group", lambda: os.setpgid(0, 0))
attempt("trace", lambda: ctypes.CDLL(None, use_errno=True).ptrace(0, 0, 0, 0) and 1 / 0)
attempt("root", lambda: os.setuid(0))
attempt("mount", lambda: landlock.call("mount", b"none", b"/tmp", b"tmpfs", 0, None))
attempt("namespace", lambda: landlock.unshare(0x10000000))
attempt("io_uring", lambda: landlock.call("syscall", 425, 1, ctypes.create_string_buffer(200)))
attempt("pair of sockets", socket.socketpair)
attempt("thread", lambda: __import__("concurrent.futures").futures.ThreadPoolExecutor(1).submit(int).result())
attempt("pin itself", lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)))
attempt("pin a process", lambda: os.sched_setaffinity(os.getpid(), os.sched_getaffinity(0)))
attempt("idle a process", lambda: os.sched_setscheduler(os.getpid(), os.SCHED_IDLE, os.sched_param(0)))
attempt("slow a process", lambda: os.setpriority(os.PRIO_PROCESS, os.getpid(), 1))
attempt("slow its user", lambda: os.setpriority(os.PRIO_USER, 0, 1))
attempt("idle disk of a process", lambda: landlock.call("syscall", IOPRIO_SET, 1, os.getpid(), 3 << 13))
attempt("limit a process", lambda: resource.prlimit(os.getpid(), resource.RLIMIT_CORE))
attempt("setxattrat", lambda: landlock.call("syscall", 463, -100, bytes(folder), 0, b"user.x", bytes(16), 16))
attributes = ctypes.create_string_buffer(24)
attempt("file_getattr", lambda: landlock.call("syscall", 468, -100, bytes(folder), attributes, 24, 0))
attempt("file_setattr", lambda: landlock.call("syscall", 469, -100, bytes(folder), attributes, 24, 0))
"""


def test_no_network_and_no_way_out(places: tuple[Path, ...]) -> None:
    """No socket reaches anything, the process group cannot be left, and no privilege can be gained."""
    outcome = tried(places, CALLS)
    needs(outcome["report"], "network", "system_calls")
    done = {name for name, what in outcome["found"].items() if what == "done"}
    assert done == {"pair of sockets", "thread", "pin itself"} | ({"root"} if outcome["user"] == 0 else set()), outcome


def test_root_is_given_up(places: tuple[Path, ...]) -> None:
    """Where the worker is root, its child is a user of its own without groups, and signals to others are refused."""
    if os.geteuid() != 0:
        pytest.skip("these tests are not run by root")
    outcome = tried(places, 'attempt("signal", lambda: os.kill(os.getppid(), 0))\n')
    needs(outcome["report"], "user", "files")
    assert outcome["user"] not in (0, 65534)
    assert outcome["groups"] == []
    assert outcome["found"] == {"signal": "PermissionError"}
    assert places[0].stat().st_uid == outcome["user"]


#: Later needs are loaded first: in some places only root can read the interpreter.
ANOTHER_USER = """
import concurrent.futures.thread, encodings.idna
os.setgroups([])
os.chown(folder, 54321, 54321)
os.chown(given, 54321, 54321)
os.setresgid(*3 * [54321])
os.setresuid(*3 * [54321])
landlock.set_dumpable(True)
"""


def test_as_an_ordinary_user(places: tuple[Path, ...]) -> None:
    """A worker that is not root confines its children, too: a laptop, or a container without rights."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    attempts = (
        'attempt("read its input", given.read_text)\n'
        'attempt("write its folder", lambda: (folder / "own").write_text("x"))\n'
        'attempt("read another file", secret.read_text)\n' + CALLS
    )
    # pytest's folders are closed to others: the way to these is opened, not they themselves
    for parent in places[0].parents:
        if parent == Path(tempfile.gettempdir()):
            break
        parent.chmod(0o711)
    outcome = tried(places, attempts, before=ANOTHER_USER)
    needs(outcome["report"], "network", "system_calls")
    done = {name for name, what in outcome["found"].items() if what == "done"}
    assert done == {"read its input", "write its folder", "pair of sockets", "thread", "pin itself"}, outcome
    assert outcome["user"] == 54321


def test_without_namespaces(places: tuple[Path, ...]) -> None:
    """Where a container forbids new namespaces, the filter of system calls keeps the network away."""
    outcome = tried(places, CALLS[: CALLS.index('attempt("new session"')], before="controls.unshare = denied()\n")
    needs(outcome["report"], "system_calls")
    assert outcome["report"]["network"] == "on: seccomp"
    assert "done" not in outcome["found"].values(), outcome


def test_without_landlock(places: tuple[Path, ...]) -> None:
    """Without Landlock root is given up only if others can read what is needed, else with a warning; the rest holds."""
    outcome = tried(places, FILES, before="landlock.restrict = denied('too old')\n")
    report = outcome["report"]
    assert report["files"].endswith("too old")
    assert outcome["found"]["read its input"] == "done"
    assert outcome["found"]["environment of others"] != "done" or report["user"].startswith("off")
    said = confinement.warnings(report)
    assert any("reads only its inputs" in line and "too old" in line for line in said)
    if report["user"].startswith("off"):
        assert any("not root" in line and "could not read" in line for line in said)


def test_without_anything(places: tuple[Path, ...]) -> None:
    """Where nothing is permitted the child still works, and each missing protection is named."""
    before = "landlock.restrict = seccomp.install = denied()\n"
    before += "controls.unshare = controls.become = controls.keep_capabilities = denied()\n"
    outcome = tried(places, 'attempt("read its input", given.read_text)\n', before=before)
    assert outcome["found"] == {"read its input": "done"}
    assert len(confinement.warnings(outcome["report"])) == 4


def test_status_is_found_by_trying() -> None:
    """The status is what a real child of this machine could do, and here no control is missing unnoticed."""
    report = confinement.status()
    assert set(report) >= {"network", "files", "user", "system_calls", "limits", "privileges"}
    assert confinement.warnings(dict.fromkeys(report, "on: x")) == []
    assert len(confinement.warnings({})) == 4


def test_data_folder_inside_the_code(places: tuple[Path, ...]) -> None:
    """People keep their data beside the code: a folder of modules that contains it is listed, not read."""
    outcome = tried(places, FILES, before="sys.path.append(str(secret.parent))\n")
    needs(outcome["report"], "files")
    assert outcome["found"]["read another file"] == "PermissionError"
    assert outcome["found"]["import"] == "done"


def test_the_real_child_is_confined(tmp_path: Path) -> None:
    """The child that opens uploads has a filter, no new privileges, and no capability but reading what it may."""
    needs(confinement.status(), "system_calls", "privileges", "files")
    (tmp_path / "upload").write_bytes(made.text_model())
    found: list[str] = []

    def look() -> None:
        for pid in children_of(os.getpid()):
            status = Path(f"/proc/{pid}/status").read_text()
            if "Seccomp:\t2" in status:
                found.append(status)
                raise LookupError

    with pytest.raises(LookupError):
        sandbox.run(
            ChildRequest(
                order=InspectModelOrder(options=ModelOptions()),
                files={"model": str(tmp_path / "upload")},
                limits=Limits(60),
            ),
            folder=tmp_path,
            on_event=lambda event: None,
            on_tick=look,
        )
    fields = dict(line.split(":\t", 1) for line in found[0].splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"] == "1"
    assert int(fields["CapEff"], 16) & ~0b110 == 0  # at most CAP_DAC_OVERRIDE or CAP_DAC_READ_SEARCH
    assert "0" not in fields["Uid"].split()


def test_the_group_is_killed_whole(places: tuple[Path, ...]) -> None:
    """Descendants that would run on cannot leave the group, so killing it leaves none."""
    code = (
        _BEFORE + _TRYING + "import time\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        attempt('session', os.setsid); attempt('group', lambda: os.setpgid(0, 0))\n"
        "        os.fork()\n"
        "        time.sleep(60)\n"
        "print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, places)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        until(lambda: len(_group(process.pid)) == 7, what="its descendants run")
        members = _group(process.pid)
        sandbox._kill_group(process)
    until(lambda: not any(map(is_alive, members)), what="all have ended")


def _group(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            group = (entry / "stat").read_text().rpartition(")")[2].split()[2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(group) == leader:
            found.append(int(entry.name))
    return found


def answered(folder: Path, answer: str) -> ChildOutcome:
    """The supervisor's reading of the files that a child left."""
    (folder / "log.txt").write_text("\x1b[2Jlog\n")
    (folder / "answer.json").write_text(answer)
    return read_outcome(folder, None)


@pytest.mark.parametrize(
    "answer",
    ['{"result": {"served": "/etc/shadow"}}', '{"result": {"served": "../../registry.sqlite"}}',
     '{"result": {"served": ".."}}', "[" * 100_000, "[]", "{", '{"error": "text"}', '{"error": {"code": 1}}', "null",
     '{"error": {"code": "a\\nINFO worker ready", "message": "", "user_error": true}}'],
)  # fmt: skip
def test_answers_are_not_trusted(answer: str, tmp_path: Path) -> None:
    """A child that was taken over can name no file outside its folder and break nothing by what it answers."""
    outcome = answered(tmp_path, answer)
    assert (outcome.result, outcome.error) == (None, None)
    assert outcome.died is not None
    assert outcome.log == "| ?[2Jlog\n"


def test_errors_that_a_child_tells_are_bounded(tmp_path: Path) -> None:
    """A message stands in lists of records: it is cut where it is longer than anybody reads."""
    error = {"code": "no_label", "message": "x" * 10**6, "user_error": True}
    outcome = answered(tmp_path, json.dumps({"error": error}))
    assert outcome.error is not None
    assert outcome.error.model_dump() == {**error, "message": "x" * 10_000}


def test_links_that_are_left_behind_are_removed(tmp_path: Path) -> None:
    """Publishing a child's files follows no link: only files of its own are left."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "own").write_text("y")
    (folder / "inner" / "served").symlink_to(secret)
    (folder / "elsewhere").symlink_to("/etc")
    os.link(secret, folder / "hard")
    os.mkfifo(folder / "pipe")
    answered(folder, '{"result": {"served": "own"}}')
    assert {path.name for path in folder.rglob("*")} == {"inner", "own", "log.txt", "answer.json"}
    assert secret.read_text() == "x"


def test_folders_that_were_closed_are_removed(tmp_path: Path) -> None:
    """A private folder goes even if the child has taken the rights from parts of it."""
    with sandbox.private_folder(tmp_path) as folder:
        (folder / "inner" / "more").mkdir(parents=True)
        (folder / "inner" / "more" / "file").write_text("x")
        (folder / "inner" / "more").chmod(0)
        (folder / "inner").chmod(0)
    assert not folder.exists()
