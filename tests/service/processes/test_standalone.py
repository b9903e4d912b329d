"""What `fedlas serve` hands to the processes that it starts."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from service.processes import standalone
from service.settings import ServiceSettings


def test_every_process_is_told_how_many_answer_predictions(tmp_path: Path) -> None:
    """One listening socket behind a wall, and as many processes as were asked for: each group of keys has one."""
    settings = ServiceSettings(data_dir=tmp_path, api_processes=2, serving_groups=2, wall="preferred")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        children = standalone._children(settings, tmp_path, [listener], stack)
        told = {child.name: child.environment.get("FEDLAS_API_PROCESSES") for child in children}
    assert {"control", "serving-1", "serving-2", "acceptor"} <= told.keys()
    assert told["control"] == "2"
