"""The harm of the chaos run, alone: messages are doubled, clocks jump, signatures are judged, orders repeat."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from tests.chaos.clock import Clock
from tests.chaos.doubling import Doubler, double_waiting
from tests.chaos.orders import order
from tests.chaos.receiver import Receiver
from tests.helpers.processes import until
from tests.helpers.programs import FAKETIME
from tests.helpers.servers import Valkey, running

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()


@pytest.fixture(scope="module")
def broker() -> Iterator[Valkey]:
    """A broker of these tests' own."""
    with running(Valkey) as started:
        yield started


def message(number: int) -> bytes:
    """A task as Celery writes it."""
    return json.dumps(
        {"body": "W10=", "headers": {"id": str(number), "argsrepr": "\"['x']\""}, "properties": {}}
    ).encode()


def test_messages_are_doubled(broker: Valkey) -> None:
    """Once doubled, each message that waits or comes in is in its queue twice; what is no message is left alone."""
    with broker.client() as client:
        client.flushall()
        client.lpush("inspect", message(0))
        client.lpush("other", "no message")
        assert double_waiting(client) == 1
        doubler = Doubler(broker.client(), seconds=60)
        until(lambda: client.client_list(_type="normal") and _monitors(broker), what="it listens")
        client.lpush("inspect", message(1))
        client.lpush("other", "nothing")
        until(lambda: client.llen("inspect") >= 4, what="the second message is doubled")
        assert sorted(client.lrange("inspect", 0, -1)) == sorted([message(0), message(0), message(1), message(1)])
        assert client.llen("other") == 2
        broker.restart()
    until(lambda: doubler.is_over, what="it ends with its broker")
    assert doubler.doubled == 1


def _monitors(broker: Valkey) -> bool:
    with broker.client() as client:
        return any("O" in str(one["flags"]) for one in client.client_list())


def test_a_running_clock_can_be_put_wrong(tmp_path: Path) -> None:
    """A process sees its time jump forward and back, while its timers run on."""
    clock = Clock(tmp_path / "clock", Path(FAKETIME.needed()))
    code = "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=clock.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def off() -> tuple[float, float]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            wall, timer = map(float, process.stdout.readline().split())
            return (wall - time.time()) / 60, timer - time.monotonic()

        for minutes in (10, -10, 0):
            clock.set(minutes)
            until(lambda wanted=minutes: abs(off()[0] - wanted) < 0.1, what=f"{minutes} minutes off")  # type: ignore[misc]
            assert abs(off()[1]) < 1


def test_signatures_are_judged() -> None:
    """A rightly signed message is taken; one of another order, or of ten minutes ago, is not."""
    body = b'{"type": "job.succeeded"}'

    def headers(age_seconds: float) -> dict[str, str]:
        moment = datetime.fromtimestamp(time.time() - age_seconds, UTC)
        stamp, signature = str(int(moment.timestamp())), Webhook(SECRET).sign("msg_1", moment, body.decode())
        return {"webhook-id": "msg_1", "webhook-timestamp": stamp, "webhook-signature": signature}

    with Receiver() as receiver:
        receiver.secrets = {0: SECRET, 1: "whsec_" + base64.b64encode(b"another secret, another").decode()}
        receiver.unwilling = {0}
        assert receiver.take(1, headers(0), body) == 400
        assert receiver.take(0, headers(600), body) == 400
        assert not receiver.took(0)
        assert [receiver.take(0, headers(0), body) for _ in range(2)] == [503, 204]
        assert receiver.took(0)
        assert {one.message_id for one in receiver.received} == {"msg_1"}


def test_orders_follow_from_the_seed() -> None:
    """One seed always gives one set of orders; another seed has other secrets."""
    assert [order(number, seed=0) for number in range(30)] == [order(number, seed=0) for number in range(30)]
    assert order(0, seed=0).secret != order(0, seed=1).secret
    assert sum(order(number, seed=0).cancel_after is not None for number in range(30)) == 3
