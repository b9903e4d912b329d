"""The canary: Python loads it at the start of a process behind the wall, and on SIGUSR1 it tries everything.

What it uses is loaded, and what it writes its answer into is opened, before the process is confined.

An attempt that succeeds changes nothing outside of the test's own folder: system calls that would are made with
arguments that cannot take effect, so that their error tells whether they were reached. In a process that has no filter
of system calls nothing is attempted at all.
"""

import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import select
import signal
import socket
import stat
import sys
import termios
import threading
import time
from pathlib import Path

from service.confinement.seccomp import COLUMNS, NUMBERS

_LIBC = ctypes.CDLL(None, use_errno=True)
_QUESTION = 2**40
_PR_GET_SECCOMP = 21
_DENIED = (errno.EPERM, errno.EACCES, errno.ENOSYS)


def number(called, *arguments):
    """A system call by its number, past the C library."""
    numbers = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    if _LIBC.syscall(ctypes.c_long(called), *numbers) < 0:
        raise OSError(ctypes.get_errno(), str(called))


def call(name, *arguments):
    """A system call, past the C library."""
    number(NUMBERS[name][COLUMNS[platform.machine()]], *arguments)


def past_filter(attempt):
    """Attempted where only the filter of system calls is to deny it: EACCES would be Landlock's, of newer kernels."""
    try:
        attempt()
    except PermissionError as error:
        if error.errno != errno.EACCES:
            raise


def of_files(given):
    """Everything that lies somewhere."""
    data, copy = Path(given["data"]), Path(given["copy"])
    yield "list the data folder", lambda: os.listdir(data)
    yield "read the database", lambda: (data / "registry.sqlite").read_bytes()
    yield "list the stored files", lambda: os.listdir(data / "artifacts")
    yield "list names", lambda: os.listdir(given["names"])
    yield "list what lies beside the served folder", lambda: os.listdir(given["run"])
    yield "read what lies beside the code", lambda: Path(given["beside"]).read_bytes()
    yield "read the users", lambda: Path("/etc/passwd").read_bytes()
    yield "read its copy", lambda: copy.read_bytes()
    yield "change its copy", lambda: os.close(os.open(copy, os.O_RDWR))
    yield "delete its copy", copy.unlink
    yield "open its copy to all", lambda: copy.chmod(0o777)
    yield "empty its copy", lambda: past_filter(lambda: os.truncate(copy, copy.stat().st_size))
    yield "date its copy", lambda: os.utime(copy, ns=(copy.stat().st_atime_ns, copy.stat().st_mtime_ns))
    yield "label its copy", lambda: os.setxattr(copy, "user.fedlas", b"")
    yield "label its copy by setxattrat", lambda: number(463, -100, bytes(copy), 0, b"user.fedlas", 0, 0)
    yield "mark its copy by file_setattr", lambda: number(469, -100, bytes(copy), 0, 0, 0)
    yield "link its copy", lambda: os.link(copy, copy.parent / "linked")
    yield "write beside its copy", lambda: (copy.parent / "new").write_text("x")
    yield "link beside its copy", lambda: (copy.parent / "link").symlink_to("/etc/passwd")
    for place in ("/tmp", "/dev/shm"):  # a file without a name, gone when it is closed
        yield f"write in {place}", lambda place=place: os.close(os.open(place, os.O_TMPFILE | os.O_RDWR))
    yield "read the digests of keys", Path(given["keys"]).read_bytes
    yield "change the digests of keys", lambda: os.close(os.open(given["keys"], os.O_RDWR))
    yield "write beside them", lambda: Path(given["keys"]).with_name("new").write_text("x")
    yield "change the code", lambda: os.close(os.open(given["code"], os.O_WRONLY))


def of_network(given):
    """Every way out."""
    local = ("127.0.0.1", given["port"])
    yield "TCP", lambda: socket.socket().connect(local)
    yield "UDP", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", local)
    yield "IPv6", lambda: socket.socket(socket.AF_INET6)
    yield "netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    yield "Unix", lambda: socket.socket(socket.AF_UNIX).connect(given["unix"])
    yield "connect its channel", lambda: channel().connect(given["unix"])
    yield "listen on its channel", lambda: channel().listen()
    yield "datagrams", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"x", given["datagrams"])
    yield "fast open", lambda: channel().sendmsg([b"x"], (), socket.MSG_FASTOPEN, given["unix"])
    yield "linger", lambda: channel().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(8))
    yield "make its channel wait", waits
    yield "have the kernel signal", lambda: signals(given["pids"]["control"])
    yield "io_uring", lambda: call("io_uring_setup", 1, ctypes.create_string_buffer(200))


def of_processes(given):
    """Others, and new ones."""
    for name, pid in given["pids"].items():
        place = Path(f"/proc/{pid}")
        yield f"environment of {name}", (place / "environ").read_bytes
        yield f"command of {name}", (place / "cmdline").read_bytes
        yield f"memory of {name}", (place / "mem").open
        yield f"descriptors of {name}", lambda place=place: os.listdir(place / "fd")
        yield f"signal {name}", lambda pid=pid: os.kill(pid, 0)
        yield f"handle of {name}", lambda pid=pid: call("pidfd_open", pid, 0)
        yield f"trace {name}", lambda pid=pid: call("ptrace", 0x7FFF, pid, 0, 0)  # no request of this number
        yield f"read {name}", lambda pid=pid: call("process_vm_readv", pid, 0, 0, 0, 0, 0)
        yield f"limit {name}", lambda pid=pid: resource.prlimit(pid, resource.RLIMIT_CORE)
        yield f"slow {name}", lambda pid=pid: os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid))
        yield f"pin {name}", lambda pid=pid: os.sched_setaffinity(pid, os.sched_getaffinity(pid))
        yield f"idle {name}", lambda pid=pid: call("sched_setscheduler", pid, -1, 0)  # no policy of this number
        yield f"idle disk of {name}", lambda pid=pid: call("ioprio_set", 1, pid, -1)  # no class of this number
    yield "slow itself", lambda: os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0))
    yield "pin itself", lambda: os.sched_setaffinity(0, os.sched_getaffinity(0))
    yield "slow its user", lambda: os.setpriority(os.PRIO_USER, 0, os.getpriority(os.PRIO_PROCESS, 0))
    yield "root", become_root
    yield "namespace", lambda: call("unshare", 0)  # of no namespace
    yield "mount", lambda: call("mount", 0, 0, 0, 0, 0)  # onto no place
    yield "session", os.setsid
    yield "keys of the kernel", lambda: call("keyctl", 0, -3, 0)
    yield "shared segments", lambda: call("shmget", 0x7EED, 4096, 0)  # only one that is there
    yield "more files", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, 2 * (2**20,))
    yield "fork", lambda: os.waitpid(os.fork() or os._exit(0), 0)
    yield "spawn", lambda: os.posix_spawn("/no/such/program", ["x"], {})
    yield "execute", lambda: call("execve", 0, 0, 0)  # no program
    yield "thread", lambda: threading.Thread(target=int).start()
    yield "pair of sockets", lambda: [end.close() for end in socket.socketpair()]
    yield "large file in memory", large_file
    yield "file in memory", lambda: os.close(os.memfd_create("canary"))


def become_root():
    """Change to a user that a user namespace may lack."""
    try:
        os.setuid(0)
    except OSError as error:
        raise PermissionError(errno.EPERM, "no root") from error


def large_file():
    """Take memory that no limit of a process counts."""
    file = os.memfd_create("canary")
    try:
        os.ftruncate(file, 2**30)  # of holes
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise PermissionError(errno.EPERM, "larger than RLIMIT_FSIZE") from error
        raise
    finally:
        os.close(file)


def channel():
    """The channel of this process."""
    words = sys.argv
    return socket.socket(fileno=os.dup(int(words[words.index("--channel") + 1])))


def sent(document, content=b"", files=()):
    """Send into the channel, as service.ipc.channel does."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(number.to_bytes(4, "little") for number in files))]
    channel().sendmsg([b"i", json.dumps(document).encode(), b"\n", content], ancillary if files else [])


def wished(model_id, file):
    """Have control put a served copy into the folder."""
    sent({"kind": "wanted", "model": model_id})
    for _ in range(1000):
        if file.exists():
            return
        time.sleep(0.02)
    raise TimeoutError


def answer_to(document):
    """Ask control, and read its answer before the process does; None where it has none."""
    sent({**document, "number": _QUESTION})
    with channel() as end:
        while select.select([end], [], [], 2)[0]:
            found, _, _ = end.recv(65536)[1:].partition(b"\n")
            if (answer := json.loads(found)).get("number") == _QUESTION:
                return answer
    return {"answer": None}


def waits():
    """Make a socket that it shares one that waits."""
    with channel() as end:
        fcntl.ioctl(end, termios.FIONBIO, bytes(4))
        fcntl.fcntl(end, fcntl.F_SETFL, 0)
        if not os.get_blocking(end.fileno()):
            raise PermissionError(errno.EPERM, "nothing happened")
        os.set_blocking(end.fileno(), False)


def signals(pid):
    """Have the kernel send signals on behalf of a socket."""
    with channel() as end:
        fcntl.fcntl(end, fcntl.F_SETOWN, pid)
        fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGURG)  # which is ignored
        fcntl.ioctl(end, termios.FIOASYNC, (1).to_bytes(4, "little"))
        if fcntl.fcntl(end, fcntl.F_GETOWN) == 0:
            raise PermissionError(errno.EPERM, "nothing happened")


def flood():
    """Ask control without end."""
    question = json.dumps({"kind": "done", "number": _QUESTION}).encode()
    with channel() as end:
        while True:
            try:
                end.send(b"i" + question + b"\n")
            except BlockingIOError:
                select.select([], [end], [], 1)


def speak_another_release():
    """Send fields from now on that others do not know."""
    from service.ipc.channel import Channel  # loaded before

    send = Channel._send

    def changed(self, parts, files):
        send(self, [part.replace(b'{"kind":', b'{"of_another_release":1,"kind":', 1) for part in parts], files)

    Channel._send = changed


def forged(request):
    """Have control answer a connection that no client has made."""
    ours, theirs = socket.socketpair()
    sent({"kind": "connection"}, request, [theirs.fileno()])
    theirs.close()
    return closed(ours)


def closed(ours):
    """The other side's answer on our end of a channel."""
    if not select.select([ours], [], [], 20)[0]:
        return {"answer": None}
    return {"answer": ours.recv(65536).decode(errors="replace")}


def of_channel(given):
    """The service that control gives on a channel."""
    yield "a connection of its own", lambda: forged(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
    yield "another's place", lambda: forged_place(given["others_name"])
    yield "wish for another", lambda: wished(given["another"], Path(given["wished"]))
    yield "ask what a name means", lambda: answer_to({"kind": "model", "called": "another"})


def forged_place(name):
    """Take the place of another process: control must not answer here as if it were that one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    sent({"kind": "peer", "name": name, "pid": 1, "start": 1}, b"", [theirs.fileno()])
    theirs.close()
    return closed(ours)


def tried(attempts):
    """Name → `done`, what it got, or why not."""
    found = {}
    for name, attempt in attempts:
        try:
            got = attempt()
            found[name] = got if isinstance(got, dict) else "done"
        except OSError as error:
            known = errno.errorcode.get(error.errno, type(error).__name__)
            found[name] = "denied" if error.errno in _DENIED else f"reached, and failed with {known}"
        except ValueError:  # a limit that may not be raised
            found[name] = "denied"
        except Exception as error:
            found[name] = f"failed with {type(error).__name__}"
    return found


def is_filtered():
    """True where system calls of this process are filtered; a filter may deny the question."""
    return _LIBC.prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) != 0


def kind_of(descriptor):
    """The kind of an open descriptor."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
        return "memory"
    kinds = {"socket": stat.S_ISSOCK, "pipe": stat.S_ISFIFO, "file": stat.S_ISREG, "folder": stat.S_ISDIR}
    return next((name for name, matches in kinds.items() if matches(found.st_mode)), "other")


def taken_over(targets, answers):
    """Try everything, and tell."""
    if not is_filtered():
        os.write(answers, b'{"found": {"a process without a filter": "done"}, "environment": {}, "descriptors": []}\n')
        return
    given = json.loads(os.pread(targets, 100_000, 0))
    if given.get("flood"):
        flood()
    if given.get("another_release"):
        speak_another_release()
        os.write(answers, b"{}\n")
        return
    kinds = [of_channel] if given["only_channel"] else [of_files, of_network, of_processes]
    found = {
        "found": {name: what for kind in kinds for name, what in tried(kind(given)).items()},
        "environment": dict(os.environ),
        "descriptors": sorted(filter(None, map(kind_of, range(_OURS)))),
    }
    os.write(answers, json.dumps(found).encode() + b"\n")


_opened, _OURS = [], 500


def out_of_the_way(descriptor):
    """A copy of the descriptor under a number that no process is given."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _OURS)
    os.close(descriptor)
    return moved


def lie_in_wait():
    """Try everything on SIGUSR1; in a fork of a fork, too."""
    folder = Path(__file__).parent
    while _opened:
        os.close(_opened.pop())
    targets = out_of_the_way(os.open(folder / "targets.json", os.O_RDONLY))
    pipe = folder / f"{os.getpid()}.pipe"
    os.mkfifo(pipe)
    answers = out_of_the_way(os.open(pipe, os.O_RDWR))
    _opened.extend((targets, answers))
    signal.signal(signal.SIGUSR1, lambda number, frame: taken_over(targets, answers))


if "service.processes.confined" in sys.orig_argv and "--trial" not in sys.orig_argv:
    lie_in_wait()
