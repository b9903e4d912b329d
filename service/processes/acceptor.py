"""The process of the acceptor: `python -m service.processes.acceptor`, started by `fedlas serve`."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
from ipaddress import ip_network

from service.acceptor.acceptor import Acceptor
from service.heartbeat import Heartbeat
from service.ipc.placement import Placement
from service.transport.connections import Connections, allow_many_connections


def main() -> int:
    """Accept until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m service.processes.acceptor")
    parser.add_argument("--fd", type=int, required=True, help="the listening socket")
    parser.add_argument("--channel", type=int, required=True, help="the channel of this process")
    parser.add_argument("--most", type=int, default=0, help="connections that may wait here")
    parser.add_argument("--per-address", type=int, default=0, help="of them those of one address")
    parser.add_argument("--trusted-proxy", type=ip_network, action="append", default=[], help="has no such limit")
    parser.add_argument("--heartbeat", type=int, help="write a byte into this pipe while the process lives")
    parser.add_argument("--hung-seconds", type=float, default=5, help="how long the process may stand still")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stdout)
    allow_many_connections()
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: signals.append(number))
    acceptor = Acceptor(
        socket.socket(fileno=options.fd),
        socket.socket(fileno=options.channel),
        placement=Placement(),
        admission=Connections.limited(options.most, options.per_address, options.trusted_proxy),
    )
    acceptor.run(
        going_on=lambda: not signals, beat=Heartbeat(options.heartbeat, hung_seconds=options.hung_seconds).beat
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
