"""A server that speaks S3, as a process of its own: it can be stopped, paused and started again at the same address."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from typing import Any

import httpx
from boto3.session import Session

from tests.helpers.processes import die_with_parent

#: `POST /age/BUCKET/KEY` with a number of seconds: a stored file becomes older, as only time could make it.
_SERVE = """
import sys
from datetime import timedelta
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

serving = DomainDispatcherApplication(create_backend_app)

def answer(environ, start_response):
    path = environ["PATH_INFO"]
    if not path.startswith("/age/"):
        return serving(environ, start_response)
    bucket, _, key = path.removeprefix("/age/").partition("/")
    file = s3_backends["123456789012"]["aws"].buckets[bucket].keys[key]
    file.last_modified -= timedelta(seconds=float(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))))
    start_response("204 No Content", [])
    return []

server = make_server("127.0.0.1", int(sys.argv[1]), answer, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


class ObjectServer:
    """A running server, gone with all that it stores when it stops; clients find it by `environment`."""

    def __init__(self) -> None:
        self._port = 0
        self.start()
        self.environment: Mapping[str, str] = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }

    def start(self) -> None:
        """Start it and wait until it listens; from the second time on at the port of the first."""
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _SERVE, str(self._port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent(),
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())

    def stop(self) -> None:
        """Kill it, with all that it stores."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def pause(self) -> None:
        """From now on it accepts connections and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a pause."""
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> Any:
        """A client for a test that looks behind the scenes; needs `environment`."""
        return Session().client("s3")

    def new_bucket(self, name: str | None = None) -> str:
        """Make an empty bucket and return its name; needs `environment`."""
        made = name or f"bucket-{uuid.uuid4().hex}"
        self.client().create_bucket(Bucket=made)
        return made

    def age(self, bucket: str, key: str, *, seconds: float) -> None:
        """Let a stored file be older by so much."""
        answer = httpx.post(f"{self.environment['AWS_ENDPOINT_URL']}/age/{bucket}/{key}", content=str(seconds))
        assert answer.status_code == 204, answer.text
