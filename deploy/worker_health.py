"""Asks the broker whether the worker of this container answers; exit code 0 if it does."""

from __future__ import annotations

import os
import socket
import sys

from celery import Celery

_PATIENCE_S = 5.0


def main() -> int:
    """Ping all workers and look for one whose name begins with this host's."""
    app = Celery(broker=os.environ["FEDLAS_BROKER_URL"])
    app.conf.broker_transport_options = {"socket_timeout": _PATIENCE_S, "socket_connect_timeout": _PATIENCE_S}
    answers = app.control.ping(timeout=_PATIENCE_S)
    nodes = [node.partition("@")[2] for answer in answers for node in answer]
    mine = [node for node in nodes if node.rpartition("-")[0] == socket.gethostname()]
    print(f"answering here: {', '.join(mine) or 'nobody'}; everywhere: {len(nodes)}")
    return 0 if mine else 1


if __name__ == "__main__":
    sys.exit(main())
