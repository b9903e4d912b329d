"""The listening sockets: they outlive the processes that accept from them, and keep their queues of connections."""

from __future__ import annotations

import os
import socket
import time

from service.settings import ServiceSettings

_PORT_TIMEOUT_S = 3.0
_BACKLOG = 2048


def listening(settings: ServiceSettings, *, processes: int) -> list[socket.socket]:
    """A socket for each process, over which the kernel distributes connections."""
    first = bound(settings)
    if processes == 1:
        return [first]
    address, family = first.getsockname()[:2], first.family
    first.close()
    return [socket.create_server(address, family=family, backlog=_BACKLOG, reuse_port=True) for _ in range(processes)]


def bound(settings: ServiceSettings) -> socket.socket:
    """A listening socket; waits a moment for an earlier service that is still closing, then raises SystemExit."""
    deadline = time.monotonic() + _PORT_TIMEOUT_S
    address = (settings.listen_host, settings.port)
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    while True:
        try:
            return socket.create_server(address, family=family, backlog=_BACKLOG)
        except OSError as error:
            if time.monotonic() > deadline:
                where = f"{address[0]}:{address[1]}"
                reason = os.strerror(error.errno or 0)
                raise SystemExit(
                    f"cannot listen on {where}: {reason}; choose another by --port or FEDLAS_PORT"
                ) from None
            time.sleep(0.2)
