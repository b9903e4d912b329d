"""Every message that is put into a queue of the broker is put there a second time, as long as this listens."""

from __future__ import annotations

import codecs
import json
import re
import socket
import threading
import time
from collections import Counter

from redis import Redis, RedisError

_ARGUMENT = re.compile(rb'"((?:[^"\\]|\\.)*)"')


class Doubler:
    """Listens to a broker's commands (MONITOR) in a thread of its own for so many seconds; `doubled` came in twice."""

    def __init__(self, client: Redis, *, seconds: float) -> None:
        self.doubled = 0
        self._client = client
        self._until = time.monotonic() + seconds
        self._ours: Counter[bytes] = Counter()
        self._thread = threading.Thread(target=self._run, name="doubler", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """True where it has stopped listening."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        options = self._client.connection_pool.connection_kwargs
        try:
            with socket.create_connection((options["host"], options["port"]), timeout=2) as connection:
                connection.sendall(b"MONITOR\r\n")
                connection.settimeout(0.25)
                self._listen(connection)
        except (OSError, RedisError):
            return  # the broker went away, which happens here: what was doubled is doubled
        finally:
            self._client.close()

    def _listen(self, connection: socket.socket) -> None:
        pending = b""
        while time.monotonic() < self._until:
            try:
                chunk = connection.recv(65536)
            except TimeoutError:
                continue
            if not chunk:
                return
            *lines, pending = (pending + chunk).split(b"\r\n")
            for line in lines:
                self._double(line)

    def _double(self, line: bytes) -> None:
        words = [codecs.escape_decode(word)[0] for word in _ARGUMENT.findall(line)]
        if len(words) != 3 or words[0].upper() != b"LPUSH" or not is_message(words[2]):
            return
        if self._ours[words[2]]:
            self._ours[words[2]] -= 1
            return
        self._ours[words[2]] += 1
        self._client.lpush(words[1], words[2])
        self.doubled += 1


def double_waiting(client: Redis) -> int:
    """Put every message that waits now into its queue once more; returns how many there were."""
    doubled = 0
    for key in client.scan_iter(_type="list"):
        waiting = [message for message in map(as_bytes, client.lrange(key, 0, -1)) if is_message(message)]
        for message in waiting:
            client.rpush(key, message)
        doubled += len(waiting)
    return doubled


def as_bytes(content: bytes | str) -> bytes:
    """The bytes that the broker holds, whatever its client makes of them."""
    return content if isinstance(content, bytes) else content.encode()


def is_message(content: bytes) -> bool:
    """True for a task as Celery puts it into a list."""
    try:
        message = json.loads(content)
    except ValueError:
        return False
    return isinstance(message, dict) and {"body", "headers", "properties"} <= set(message)
