"""The process of the acceptor: `python -m service.processes.acceptor`, started by `fedlas serve`."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys

from service.acceptor.acceptor import Acceptor
from service.ipc.placement import Placement


def main() -> int:
    """Accept until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m service.processes.acceptor")
    parser.add_argument("--fd", type=int, required=True, help="the listening socket")
    parser.add_argument("--channel", type=int, required=True, help="the channel of this process")
    parser.add_argument("--groups", type=int, default=1, help="groups of keys")
    parser.add_argument("--most", type=int, default=16_384, help="connections that may wait here")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stdout)
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: signals.append(number))
    acceptor = Acceptor(
        socket.socket(fileno=options.fd),
        socket.socket(fileno=options.channel),
        placement=Placement(options.groups),
        most=options.most,
    )
    acceptor.run(going_on=lambda: not signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
