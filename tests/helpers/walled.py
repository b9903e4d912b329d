"""The API behind a wall as processes of this one: acceptor, control and serving, without broker and worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from service.processes.child_process import ChildProcess
from service.processes.supervision import bound, running, tend
from service.processes.wall import walled_apis
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings
from tests.helpers import backends
from tests.helpers.processes import until

_EVERY_S = 0.05


class WalledApi:
    """The processes, a client, and the registry."""

    def __init__(
        self, settings: ServiceSettings, registry: Registry, client: httpx.Client, children: Sequence[ChildProcess]
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.client = client
        self.stopping = threading.Event()
        self.paused = threading.Event()
        self.over = threading.Event()
        self._children = children

    def child(self, name: str) -> ChildProcess:
        """`control`, `acceptor`, `serving-1`."""
        return next(child for child in self._children if child.name == name)

    @property
    def port(self) -> int:
        """Where clients connect."""
        assert self.client.base_url.port is not None
        return self.client.base_url.port

    @property
    def pids(self) -> list[int]:
        """All processes that answer just now."""
        return [child.process.pid for child in self._children if child.process is not None]

    def pid(self, name: str) -> int:
        """The process id of one that runs."""
        process = self.child(name).process
        assert process is not None
        return process.pid

    def kill(self, name: str, number: int) -> int:
        """Send a signal; returns which process it went to."""
        os.kill(pid := self.pid(name), number)
        return pid

    def follows(self, name: str, pid: int) -> None:
        """Wait until another process has taken the place of this one."""
        until(lambda: self.pid(name) != pid, what=f"{name} is started again")

    def is_ready(self) -> bool:
        """True where models can be found and opened."""
        try:
            return self.client.get("/v2/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def until_ready(self) -> None:
        """Wait until models can be found and opened."""
        until(self.is_ready, what="the service is ready")

    def keep_running(self) -> None:
        """Start again what ends, until the event is set; the kernel ends a process with the thread that started it."""
        while not self.stopping.wait(_EVERY_S):
            tend(self._children)
        self.paused.set()
        self.over.wait()


def _await_followed(registry: Registry, complete: Path) -> None:
    """Wait until control has written what was changed beside it: clients wait for its word."""
    with registry.read() as unit:
        newest = unit.served_changes.newest()
    until(lambda: complete.exists() and int(complete.read_text()) >= newest, what="control has followed")


@contextmanager
def walled(data_dir: Path, *, environment: dict[str, str] | None = None, **options: Any) -> Iterator[WalledApi]:
    """Run the API of these settings behind a wall; `environment` is that of control."""
    with ExitStack() as stack:
        where = stack.enter_context(backends.place(data_dir))
        settings = ServiceSettings(**{"wall": "preferred", "port": 0, "api_processes": 1, **where, **options})
        registry = Registry.open(settings)
        stack.callback(registry.close)
        listener = stack.enter_context(bound(settings))
        run_dir = data_dir / "run"
        run_dir.mkdir(parents=True, exist_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")}
        given = {**clean, **backends.environment({**where, "wall": "preferred", **options}), **(environment or {})}
        children = walled_apis(settings, given, run_dir, listener, stack)
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60))
        api = WalledApi(settings, registry, client, children)
        registry.on_served = partial(_await_followed, registry, run_dir / "served" / "complete")
        keeping = threading.Thread(target=api.keep_running, name="walled-api")
        stack.callback(lambda: keeping.ident is not None and keeping.join())
        stack.callback(api.over.set)
        stack.enter_context(running(children))
        keeping.start()
        stack.callback(api.paused.wait)
        stack.callback(api.stopping.set)
        api.until_ready()
        yield api
